//! Messages that two programs read in two ways.

use super::Proof::{Here, Never};
use super::{Advisory, conf, fuzz, unit};
use crate::{logs, proxied, smuggle};

pub(super) const ROWS: &[Advisory] = &[
    Advisory {
        row: "smuggle.length",
        ids: &["RUSTSEC-2021-0020", "RUSTSEC-2021-0078", "CVE-2023-40225"],
        must: "a Content-Length that is not one number, once, is refused",
        shown: &[
            Here(smuggle::length),
            conf("http/raw-lengths-differ"),
            conf("http/raw-lengths-equal"),
            conf("http/raw-length-list"),
            conf("http/raw-length-empty"),
        ],
    },
    Advisory {
        row: "smuggle.coding",
        ids: &["RUSTSEC-2021-0079", "CVE-2026-2835"],
        must: "a Transfer-Encoding that is not `chunked` alone is refused, and in HTTP/1.0 any",
        shown: &[
            Here(smuggle::coding),
            conf("http/raw-coding-xchunked"),
            conf("http/raw-coding-chunked-twice"),
            conf("http/raw-coding-in-1.0"),
        ],
    },
    Advisory {
        row: "smuggle.both",
        ids: &["CVE-2026-2835", "class: CL.TE and TE.CL"],
        must: "length and coding together are refused, in requests and in answers",
        shown: &[
            Here(smuggle::both),
            conf("http/raw-length-and-chunked"),
            conf("http/raw-chunked-and-length"),
            conf("http/raw-answer-length-and-chunked"),
        ],
    },
    Advisory {
        row: "smuggle.chunks",
        ids: &["class: chunk sizes and extensions"],
        must: "a chunk whose size or end can be read in two ways ends the request, which the origin is not told was whole",
        shown: &[fuzz("body"), Here(smuggle::chunks), conf("http/raw-chunk-extension")],
    },
    Advisory {
        row: "smuggle.trailers",
        ids: &["class: fields of framing in trailers"],
        must: "fields that frame, route or prove are refused behind a body",
        shown: &[Here(smuggle::trailers), conf("limits/trailers")],
    },
    Advisory {
        row: "smuggle.lines",
        ids: &["CVE-2023-25725", "class: line ends, folding, control characters"],
        must: "lines that end otherwise, go on, have no name or hold control characters are refused",
        shown: &[
            fuzz("headers"),
            Here(smuggle::lines),
            conf("http/raw-bare-lf"),
            conf("http/raw-folded"),
            conf("http/raw-cr-in-value"),
            conf("http/raw-empty-name"),
        ],
    },
    Advisory {
        row: "smuggle.first_line",
        ids: &["class: request lines"],
        must: "a request line with more, other or less than three words is refused",
        shown: &[
            Here(smuggle::first_line),
            conf("http/raw-two-spaces"),
            conf("http/raw-version-0.9"),
            conf("http/raw-lower-case-method"),
        ],
    },
    Advisory {
        row: "smuggle.host",
        ids: &["class: two hosts, or none"],
        must: "a request is for one host, which rules see as the origin does",
        shown: &[
            Here(smuggle::host),
            conf("http/raw-two-hosts"),
            conf("http/raw-no-host"),
            conf("http/raw-host-userinfo"),
            conf("http/raw-absolute-form"),
        ],
    },
    Advisory {
        row: "smuggle.hop_by_hop",
        ids: &["class: Connection names what others rely on"],
        must: "what Connection names is taken away, and is refused where others rely on it",
        shown: &[
            Here(smuggle::hop_by_hop),
            conf("http/raw-connection-nominates-host"),
            conf("http/raw-connection-nominates-proxies"),
        ],
    },
    Advisory {
        row: "smuggle.upgrade_early",
        ids: &["CVE-2026-2833", "CVE-2025-64763"],
        must: "bytes behind an upgrade that is refused are no request, and reach nobody",
        shown: &[Here(smuggle::upgrade_early), conf("http/raw-upgrade-early-bytes")],
    },
    Advisory {
        row: "smuggle.connect_early",
        ids: &["CVE-2025-64763"],
        must: "bytes behind a CONNECT that is refused are no request, and reach nobody",
        shown: &[
            Here(smuggle::connect_early),
            conf("http/raw-connect-early-bytes"),
            conf("http/connect-refused"),
        ],
    },
    Advisory {
        row: "smuggle.unread_body",
        ids: &["CVE-2025-4366"],
        must: "a connection with bytes that nobody has read is used for nothing else",
        shown: &[Here(smuggle::unread_body), conf("http/raw-unread-body"), conf("http/body-answered-early")],
    },
    Advisory {
        row: "smuggle.answers",
        ids: &["class: answers that can be read in two ways"],
        must: "an answer that is none, has two lengths or brings more than was asked becomes 502, never somebody else's",
        shown: &[
            conf("http/raw-answer-garbage"),
            conf("http/raw-answer-two-lengths"),
            conf("http/raw-answer-more-than-asked"),
            conf("http/raw-answer-bad-chunk"),
        ],
    },
    Advisory {
        row: "smuggle.h2_length",
        ids: &["CVE-2026-33555", "CVE-2026-48743"],
        must: "a content-length that the body of a stream does not have resets it, and the origin is not told that it was whole",
        shown: &[Here(smuggle::h2_length), conf("http/raw-length-in-2")],
    },
    Advisory {
        row: "smuggle.h2_fields",
        ids: &["CVE-2023-27491", "class: H2.TE and H2.CL"],
        must: "names and values that are none in HTTP/1 do not get there from HTTP/2, nor do fields of a connection",
        shown: &[Here(smuggle::h2_fields), conf("http/raw-host-in-2")],
    },
    Advisory {
        row: "smuggle.cache",
        ids: &["CVE-2026-2836"],
        must: "nobody gets another's answer from a cache",
        shown: &[Never("there is no cache")],
    },
    Advisory {
        row: "proxy_v2",
        ids: &["CVE-2026-47692"],
        must: "a PROXY header whose lengths do not fit is refused",
        shown: &[
            conf("http/raw-proxy-header-2"),
            unit("proxy_header::tests::what_can_be_read_in_two_ways_or_not_at_all_is_wrong"),
            fuzz("proxy"),
            Here(proxied::headers),
        ],
    },
    Advisory {
        row: "log.injection",
        ids: &["CVE-2024-45807", "CVE-2024-45808"],
        must: "what clients say (paths, agents, server names) makes no line of a log of its own, nor a field",
        shown: &[Here(logs::injection), conf("settings/access-log-encoding")],
    },
];
