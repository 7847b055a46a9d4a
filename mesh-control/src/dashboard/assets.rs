//! The page itself, as it is in `web/`; libraries of others are in `web/lib/`, with their licences.

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
const TEXT: &str = "text/plain; charset=utf-8";

static ASSETS: [Asset; 15] = [
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
    Asset { path: "/lib/preact.mjs", kind: SCRIPT, content: include_bytes!("../../web/lib/preact.mjs") },
    Asset {
        path: "/lib/uPlot.iife.min.js",
        kind: SCRIPT,
        content: include_bytes!("../../web/lib/uPlot.iife.min.js"),
    },
    Asset {
        path: "/lib/uPlot.min.css",
        kind: "text/css; charset=utf-8",
        content: include_bytes!("../../web/lib/uPlot.min.css"),
    },
    // Whoever gets a copy gets these.
    Asset {
        path: "/lib/preact.LICENSE",
        kind: TEXT,
        content: include_bytes!("../../web/lib/preact.LICENSE"),
    },
    Asset { path: "/lib/uPlot.LICENSE", kind: TEXT, content: include_bytes!("../../web/lib/uPlot.LICENSE") },
];
