/// Names and shapes that fedstyle writes into its exports.
///
/// `tests/test_ios.py` compares each line with real exports; change them there and here together.
public enum Contract {
    public static let imageInput = "image"
    public static let imageOutput = "stylizedImage"
    public static let styleInput = "style"
    /// Height and width of a model's images are multiples of this.
    public static let sideMultiple = 4
    public static let smallestSide = 16
    public static let largestSide = 4096

    /// Keys of the user-defined metadata.
    public static let algorithmKey = "algorithm"
    /// A pack's list of filters, as JSON.
    public static let listKey = "styles"
    /// What the style files of an iOS 15 pack must name as their base.
    public static let baseKey = "base"

    /// `Name.styles` lies beside `Name.mlpackage`.
    public static let stylesFolderExtension = "styles"
    public static let styleFileExtension = "safetensors"
    public static let styleFileFormat = "fedstyle-style-1"
    public static let styleFileType = "F32"
    /// Numbers in a style vector: scale and shift of each norm of the network.
    public static let cnnStyleLength = 3200
    public static let cnnLiteStyleLength = 1552
}
