// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "FedstyleKit",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "FedstyleKit", targets: ["FedstyleKit"])],
    targets: [
        .target(name: "FedstyleKit"),
        .testTarget(name: "FedstyleKitTests", dependencies: ["FedstyleKit"]),
    ]
)
