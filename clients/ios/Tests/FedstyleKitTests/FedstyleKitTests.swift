import CoreGraphics
import XCTest

@testable import FedstyleKit

final class FedstyleKitTests: XCTestCase {
    /// A style file as fedstyle writes it, with the numbers given.
    private func file(_ numbers: [Float], name: String = "Waves", base: String = "b", format: String = Contract.styleFileFormat) -> Data {
        let header =
            "{\"__metadata__\":{\"format\":\"\(format)\",\"name\":\"\(name)\",\"base\":\"\(base)\",\"filter\":\"f\"},"
            + "\"style\":{\"dtype\":\"F32\",\"shape\":[\(numbers.count)],\"data_offsets\":[0,\(4 * numbers.count)]}}"
        var data = Data()
        withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { data.append(contentsOf: $0) }
        data.append(contentsOf: header.utf8)
        for number in numbers {
            withUnsafeBytes(of: number.bitPattern.littleEndian) { data.append(contentsOf: $0) }
        }
        return data
    }

    func testAStyleFileIsRead() throws {
        let style = try StyleFile(data: file([1, -0.5, 3.25]))
        XCTAssertEqual(style, StyleFile(name: "Waves", base: "b", vector: [1, -0.5, 3.25]))
    }

    func testADamagedStyleFileIsRefused() {
        let good = file([1, 2])
        for bad in [Data(), good.dropLast(), Data(good.prefix(20)), file([1, .nan]), file([1], format: "fedstyle-style-2")] {
            XCTAssertThrowsError(try StyleFile(data: bad)) { XCTAssertEqual($0 as? FedstyleError, .damagedStyleFile) }
        }
    }

    func testABlendIsLinear() throws {
        let first = StyleFile(name: "A", base: "b", vector: [0, 2])
        let second = StyleFile(name: "B", base: "b", vector: [4, -2])
        // 3/4 of (0, 2) and 1/4 of (4, -2)
        XCTAssertEqual(try first.blended(with: second, amount: 0.25).vector, [1, 1])
        XCTAssertEqual(try first.blended(with: second, amount: 2).vector, second.vector)
        XCTAssertThrowsError(try first.blended(with: StyleFile(name: "C", base: "other", vector: [0, 0]), amount: 0.5))
    }

    func testAPhotoKeepsItsRatio() throws {
        // 4:3 into a square of 512: the longer side fills it, the other takes 512 * 3 / 4 = 384
        let photo = CGSize(width: 4000, height: 3000)
        let fit = try XCTUnwrap(Fit(picture: photo, sizes: [(512, 512)]))
        XCTAssertEqual(fit.part, CGRect(x: 0, y: 0, width: 512, height: 384))
        // of two sizes, the one that it fills
        XCTAssertEqual(try XCTUnwrap(Fit(picture: photo, sizes: [(512, 512), (640, 480)])).width, 640)
        XCTAssertNil(Fit(picture: .zero, sizes: [(512, 512)]))
    }

    func testThePacksListIsRead() throws {
        let list = "[{\"name\":\"Waves\",\"function\":\"waves\",\"filter\":\"f\",\"algorithm\":\"cnnLite\"}]"
        let facts = try Facts([Contract.listKey: list])
        XCTAssertEqual(facts.filters.map(\.function), ["waves"])
        XCTAssertNil(facts.base)
        XCTAssertEqual(try Facts([:]).filters, [])
        XCTAssertThrowsError(try Facts([Contract.listKey: "[{}]"]))
    }
}
