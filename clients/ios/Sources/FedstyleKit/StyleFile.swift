import Foundation

/// The style vector of one filter, for the `style` input of an iOS 15 pack.
///
/// A file is a safetensors file: 8 bytes with the length of the JSON header, little endian, the header, then float32 numbers, little
/// endian.
public struct StyleFile: Sendable, Equatable {
    /// What a person sees.
    public let name: String
    /// The network that the vector belongs to: equal to the pack's `base` in its metadata.
    public let base: String
    /// Scale, then shift, of each norm in the order of the network.
    public let vector: [Float]

    public init(name: String, base: String, vector: [Float]) {
        self.name = name
        self.base = base
        self.vector = vector
    }

    public init(contentsOf url: URL) throws {
        try self.init(data: Data(contentsOf: url))
    }

    public init(data: Data) throws {
        let bytes = [UInt8](data)
        guard bytes.count > 8 else { throw FedstyleError.damagedStyleFile }
        let length = bytes.prefix(8).reversed().reduce(UInt64(0)) { ($0 << 8) | UInt64($1) }
        guard length <= UInt64(bytes.count - 8) else { throw FedstyleError.damagedStyleFile }
        let start = 8 + Int(length)
        guard let header = try? JSONDecoder().decode(Header.self, from: Data(bytes[8..<start])),
            header.notes.format == Contract.styleFileFormat,
            header.style.type == Contract.styleFileType,
            header.style.offsets == [0, bytes.count - start],
            (bytes.count - start) % 4 == 0
        else { throw FedstyleError.damagedStyleFile }
        let numbers = stride(from: start, to: bytes.count, by: 4).map { place -> Float in
            let bits = bytes[place..<place + 4].reversed().reduce(UInt32(0)) { ($0 << 8) | UInt32($1) }
            return Float(bitPattern: bits)
        }
        guard header.style.shape == [numbers.count], numbers.allSatisfy({ $0.isFinite }) else { throw FedstyleError.damagedStyleFile }
        self.init(name: header.notes.name, base: header.notes.base, vector: numbers)
    }

    /// A mix of two styles of the same base: `amount` 0 gives this one, 1 the other, and between them the vectors are mixed linearly.
    public func blended(with other: StyleFile, amount: Float) throws -> StyleFile {
        guard base == other.base, vector.count == other.vector.count else { throw FedstyleError.otherBase }
        let share = min(max(amount, 0), 1)
        let mixed = zip(vector, other.vector).map { (1 - share) * $0 + share * $1 }
        return StyleFile(name: "\(name) + \(other.name)", base: base, vector: mixed)
    }

    private struct Header: Decodable {
        let notes: Notes
        let style: Tensor

        enum CodingKeys: String, CodingKey {
            case notes = "__metadata__"
            case style
        }
    }

    private struct Notes: Decodable {
        let format: String
        let name: String
        let base: String
    }

    private struct Tensor: Decodable {
        let type: String
        let shape: [Int]
        let offsets: [Int]

        enum CodingKeys: String, CodingKey {
            case type = "dtype"
            case shape
            case offsets = "data_offsets"
        }
    }
}
