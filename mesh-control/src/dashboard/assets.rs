//! The page itself, as it is in `web/`.

/// A file of the page.
#[derive(Debug)]
pub(super) struct Asset {
    path: &'static str,
    pub(super) kind: &'static str,
    pub(super) content: &'static [u8],
}

/// The file with this path.
pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

static ASSETS: [Asset; 10] = [
    Asset { path: "/", kind: "text/html; charset=utf-8", content: include_bytes!("../../web/index.html") },
    Asset {
        path: "/page.css",
        kind: "text/css; charset=utf-8",
        content: include_bytes!("../../web/page.css"),
    },
    Asset { path: "/icon.svg", kind: "image/svg+xml", content: include_bytes!("../../web/icon.svg") },
    Asset { path: "/main.js", kind: SCRIPT, content: include_bytes!("../../web/main.js") },
    Asset { path: "/kit.js", kind: SCRIPT, content: include_bytes!("../../web/kit.js") },
    Asset { path: "/layout.js", kind: SCRIPT, content: include_bytes!("../../web/layout.js") },
    Asset { path: "/graph.js", kind: SCRIPT, content: include_bytes!("../../web/graph.js") },
    Asset { path: "/chart.js", kind: SCRIPT, content: include_bytes!("../../web/chart.js") },
    Asset { path: "/lists.js", kind: SCRIPT, content: include_bytes!("../../web/lists.js") },
    Asset { path: "/details.js", kind: SCRIPT, content: include_bytes!("../../web/details.js") },
];
