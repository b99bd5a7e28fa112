import CoreGraphics

/// How a picture fits into a model's image: made smaller or larger as a whole, at the lower left corner.
///
/// Its sides keep their ratio (to a pixel), so that strokes keep their shape.
struct Fit: Equatable {
    /// The sides of the model's image in pixels.
    let width: Int
    let height: Int
    /// The part of it that holds the picture, in whole pixels.
    let part: CGRect

    /// The fit into the one of `sizes` that the picture fills most; nil when there is none, or the picture has no area.
    init?(picture: CGSize, sizes: [(width: Int, height: Int)]) {
        guard picture.width >= 1, picture.height >= 1, picture.width.isFinite, picture.height.isFinite else { return nil }
        var best: (share: CGFloat, width: Int, height: Int, part: CGRect)?
        for size in sizes {
            let scale = min(CGFloat(size.width) / picture.width, CGFloat(size.height) / picture.height)
            let wide = max(1, (picture.width * scale).rounded())
            let tall = max(1, (picture.height * scale).rounded())
            let share = wide * tall / CGFloat(size.width * size.height)
            if let found = best, found.share >= share { continue }
            best = (share, size.width, size.height, CGRect(x: 0, y: 0, width: wide, height: tall))
        }
        guard let best else { return nil }
        width = best.width
        height = best.height
        part = best.part
    }
}
