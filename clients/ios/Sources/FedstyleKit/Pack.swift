import CoreML
import Foundation

/// A filter in a pack, as the pack's metadata lists it.
public struct PackedFilter: Decodable, Sendable, Equatable {
    /// What a person sees.
    public let name: String
    /// The function to load, in an iOS 18 pack.
    public let function: String?
    /// The file in the styles folder, in an iOS 15 pack.
    public let file: String?
    /// The SHA-256 of the filter's weights: its identity.
    public let filter: String
    public let algorithm: String
    public let styleStrength: String?
    public let textelDensity: String?
}

/// What a model says about itself.
public struct Facts: Sendable, Equatable {
    /// The filters of a pack; empty for a model with one filter.
    public let filters: [PackedFilter]
    /// What a style file must name as its base; nil unless the model takes a style vector.
    public let base: String?

    init(_ notes: [String: String]) throws {
        base = notes[Contract.baseKey]
        guard let list = notes[Contract.listKey] else {
            filters = []
            return
        }
        guard let found = try? JSONDecoder().decode([PackedFilter].self, from: Data(list.utf8)) else { throw FedstyleError.damagedList }
        filters = found
    }

    init(_ description: MLModelDescription) throws {
        try self.init(description.metadata[MLModelMetadataKey.creatorDefinedKey] as? [String: String] ?? [:])
    }
}

public enum FedstyleError: Error, Equatable {
    /// The file is no style file of fedstyle, or was altered.
    case damagedStyleFile
    /// The pack's list of filters cannot be read.
    case damagedList
    /// The style file belongs to another network than the model.
    case otherBase
    /// The model does not take `image` and give `stylizedImage`.
    case noFilter
    /// The model takes a style vector: give a style.
    case styleNeeded
    /// The model takes no style vector: give none.
    case styleNotTaken
    /// A function can be chosen from iOS 18 and macOS 15 on.
    case functionsNeedIOS18
    /// The picture is empty or endless, or there is no memory for it.
    case noPixels
}
