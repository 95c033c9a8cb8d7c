//! The pages of the guide, whose code is compiled and run as doctests: `cargo test -p coord-examples --doc`.

/// One module for each page, so that a test that fails names its page.
macro_rules! pages {
    ($($page:ident: $file:literal,)*) => {$(
        #[cfg(doctest)]
        #[doc = include_str!(concat!("../../docs/guide/", $file))]
        mod $page {}
    )*};
}

pages! {
    readme: "README.md",
    why: "why.md",
    choosing: "choosing.md",
    locks: "locks.md",
    fencing: "fencing.md",
    elections: "elections.md",
    membership: "membership.md",
    queues: "queues.md",
    configuration: "configuration.md",
    barriers: "barriers.md",
    failures: "failures.md",
    operating: "operating.md",
    backend: "backend.md",
    conformance: "conformance.md",
    migrating: "migrating.md",
    scale: "scale.md",
}
