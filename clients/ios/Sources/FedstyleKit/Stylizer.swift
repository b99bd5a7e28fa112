import CoreGraphics
import CoreImage
import CoreML
import CoreVideo
import Dispatch
import Foundation

/// A stylised picture and the time that it took.
public struct Stylized {
    /// The picture, in sRGB, of the photo's size.
    public let image: CGImage
    /// Seconds that the model took.
    public let modelSeconds: Double
    /// Seconds from photo to picture, with the conversions.
    public let totalSeconds: Double
}

/// A model that fedstyle exported, ready to stylise. An actor: it works off the main thread, one picture at a time.
public actor Stylizer {
    /// What the model says about itself.
    public nonisolated let facts: Facts

    private let model: MLModel
    private let sizes: [(width: Int, height: Int)]
    private let styleLength: Int?
    private let context = CIContext()
    private let colors: CGColorSpace

    /// Loads an `.mlmodelc` of the app's bundle, or compiles an `.mlpackage` or `.mlmodel` that was downloaded and loads that.
    ///
    /// `function` chooses a filter of an iOS 18 pack (`PackedFilter.function`); without it the pack's first one is loaded. Compiling takes
    /// seconds: an app that keeps a downloaded model calls `compile` once and moves the result to a place of its own.
    public static func load(contentsOf url: URL, function: String? = nil, units: MLComputeUnits = .all) async throws -> Stylizer {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        if let function {
            guard #available(iOS 18.0, macOS 15.0, *) else { throw FedstyleError.functionsNeedIOS18 }
            configuration.functionName = function
        }
        var compiled = url
        if url.pathExtension != "mlmodelc" {
            compiled = try await compile(url)
        }
        let model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
        return try Stylizer(model)
    }

    /// Compiles a package on the device; the result lies in a temporary folder.
    public static func compile(_ url: URL) async throws -> URL {
        if #available(iOS 16.0, macOS 13.0, *) {
            return try await MLModel.compileModel(at: url)
        }
        return try compileAndWait(url)
    }

    /// Not async, so that the compiler takes the older form of `compileModel(at:)`, which iOS 15 has.
    private static func compileAndWait(_ url: URL) throws -> URL {
        try MLModel.compileModel(at: url)
    }

    init(_ model: MLModel) throws {
        let description = model.modelDescription
        guard let input = description.inputDescriptionsByName[Contract.imageInput]?.imageConstraint,
            description.outputDescriptionsByName[Contract.imageOutput]?.type == .image,
            let colors = CGColorSpace(name: CGColorSpace.sRGB)
        else { throw FedstyleError.noFilter }
        self.model = model
        self.colors = colors
        facts = try Facts(description)
        if input.sizeConstraint.type == .enumerated {
            sizes = input.sizeConstraint.enumeratedImageSizes.map { ($0.pixelsWide, $0.pixelsHigh) }
        } else {
            sizes = [(input.pixelsWide, input.pixelsHigh)]
        }
        let shape = description.inputDescriptionsByName[Contract.styleInput]?.multiArrayConstraint?.shape
        styleLength = shape.map { $0.reduce(1) { $0 * $1.intValue } }
    }

    /// Stylises a photo; the result has its size. An iOS 15 pack needs a `style`, every other model takes none.
    ///
    /// For a photo of a file, `CIImage(contentsOf: url, options: [.applyOrientationProperty: true])` turns it upright.
    public func stylize(_ photo: CIImage, style: StyleFile? = nil) throws -> Stylized {
        let start = DispatchTime.now().uptimeNanoseconds
        guard let fit = Fit(picture: photo.extent.size, sizes: sizes) else { throw FedstyleError.noPixels }
        let buffer = try pixels(of: photo, fit: fit)
        var inputs: [String: MLFeatureValue] = [Contract.imageInput: MLFeatureValue(pixelBuffer: buffer)]
        if let vector = try multiArray(for: style) {
            inputs[Contract.styleInput] = MLFeatureValue(multiArray: vector)
        }
        let provider = try MLDictionaryFeatureProvider(dictionary: inputs)
        let before = DispatchTime.now().uptimeNanoseconds
        let result = try model.prediction(from: provider)
        let after = DispatchTime.now().uptimeNanoseconds
        guard let styled = result.featureValue(for: Contract.imageOutput)?.imageBufferValue else { throw FedstyleError.noFilter }
        let image = try picture(of: styled, fit: fit, size: photo.extent.size)
        let end = DispatchTime.now().uptimeNanoseconds
        return Stylized(image: image, modelSeconds: Double(after - before) / 1e9, totalSeconds: Double(end - start) / 1e9)
    }

    /// The style vector as the model takes it: (1, N, 1, 1) of float32; nil for a model that takes none.
    private func multiArray(for style: StyleFile?) throws -> MLMultiArray? {
        guard let styleLength else {
            if style != nil { throw FedstyleError.styleNotTaken }
            return nil
        }
        guard let style else { throw FedstyleError.styleNeeded }
        guard style.vector.count == styleLength, style.base == facts.base else { throw FedstyleError.otherBase }
        return MLMultiArray(MLShapedArray<Float>(scalars: style.vector, shape: [1, styleLength, 1, 1]))
    }

    /// The photo in the model's image, in sRGB; beside it its last pixels are repeated.
    private func pixels(of photo: CIImage, fit: Fit) throws -> CVPixelBuffer {
        var made: CVPixelBuffer?
        let options = [kCVPixelBufferIOSurfacePropertiesKey as String: [String: Any]()]
        CVPixelBufferCreate(kCFAllocatorDefault, fit.width, fit.height, kCVPixelFormatType_32BGRA, options as CFDictionary, &made)
        guard let buffer = made else { throw FedstyleError.noPixels }
        let corner = CGAffineTransform(translationX: -photo.extent.minX, y: -photo.extent.minY)
        let size = photo.extent.size
        let scaled = scale(photo.transformed(by: corner), across: fit.part.width / size.width, up: fit.part.height / size.height)
        context.render(scaled, to: buffer, bounds: CGRect(x: 0, y: 0, width: fit.width, height: fit.height), colorSpace: colors)
        return buffer
    }

    /// The stylised photo, cut out of the model's image and brought back to its size.
    private func picture(of buffer: CVPixelBuffer, fit: Fit, size: CGSize) throws -> CGImage {
        let whole = CIImage(cvPixelBuffer: buffer, options: [.colorSpace: colors])
        let scaled = scale(whole.cropped(to: fit.part), across: size.width / fit.part.width, up: size.height / fit.part.height)
        let bounds = CGRect(origin: .zero, size: size)
        guard let image = context.createCGImage(scaled, from: bounds, format: .RGBA8, colorSpace: colors) else {
            throw FedstyleError.noPixels
        }
        return image
    }

    /// A picture scaled with a Lanczos filter; its last pixels are repeated without end, so that its edges stay opaque.
    private func scale(_ image: CIImage, across: CGFloat, up: CGFloat) -> CIImage {
        image.clampedToExtent().applyingFilter(
            "CILanczosScaleTransform",
            parameters: [kCIInputScaleKey: up, kCIInputAspectRatioKey: across / up]
        )
    }
}
