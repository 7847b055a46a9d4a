//! What costs the attacked more than the attacker.

use super::Proof::{Here, Never};
use super::{Advisory, conf, control, e2e, fuzz, gateway, unit};
use crate::{deps, h2, logs, slow, stall, tls};

pub(super) const ROWS: &[Advisory] = &[
    Advisory {
        row: "deps.floors",
        ids: &[
            "RUSTSEC-2026-0258",
            "RUSTSEC-2026-0285",
            "RUSTSEC-2026-0104",
            "RUSTSEC-2026-0190",
            "RUSTSEC-2024-0376",
            "RUSTSEC-2024-0336",
            "RUSTSEC-2024-0399",
            "RUSTSEC-2023-0053",
        ],
        must: "no release with a published fault comes back into the lock file",
        shown: &[Here(deps::floors)],
    },
    Advisory {
        row: "h2.rapid_reset",
        ids: &["CVE-2023-44487", "RUSTSEC-2023-0034"],
        must: "streams opened and reset end the connection after a bounded number, and each counts for what it cost upstream",
        shown: &[conf("http/2-rapid-reset"), conf("http/2-rapid-reset-one-by-one")],
    },
    Advisory {
        row: "h2.made_you_reset",
        ids: &["CVE-2025-8671"],
        must: "resets that the peer provokes count as its own; what runs upstream ends with the stream",
        shown: &[conf("http/2-made-you-reset"), conf("http/2-made-you-reset-by-windows")],
    },
    Advisory {
        row: "h2.continuation",
        ids: &["RUSTSEC-2024-0003", "RUSTSEC-2024-0332", "CVE-2024-27919", "CVE-2024-30255"],
        must: "headers without end, empty or full, end the connection early",
        shown: &[conf("http/2-flood-continuation"), conf("http/2-flood-headers-without-end")],
    },
    Advisory {
        row: "h2.reset_queue_closed_window",
        ids: &["RUSTSEC-2024-0003"],
        must: "what cannot be sent to a peer that reads nothing stays bounded",
        shown: &[conf("http/2-window-never-opens"), conf("http/2-flood-resets-of-a-stream-that-is-gone")],
    },
    Advisory {
        row: "h2.empty_data",
        ids: &["RUSTSEC-2026-0258"],
        must: "DATA without content ends the connection after a bounded number",
        shown: &[conf("http/2-flood-empty-data")],
    },
    Advisory {
        row: "h2.hpack_bomb",
        ids: &["CVE-2026-47774"],
        must: "headers count by what they are once decoded, and memory does not grow with them",
        shown: &[Here(h2::hpack_bomb), conf("limits/head-bytes-in-2")],
    },
    Advisory {
        row: "h2.cookie_bomb",
        ids: &["CVE-2026-47774"],
        must: "crumbs of a cookie count by what they are once joined",
        shown: &[Here(h2::cookie_bomb)],
    },
    Advisory {
        row: "h2.ping",
        ids: &["CVE-2019-9512"],
        must: "more pings than anybody needs end the connection",
        shown: &[
            conf("http/2-flood-ping"),
            conf("http/2-flood-ping-answers"),
            conf("upstream/flood-of-pings"),
        ],
    },
    Advisory {
        row: "h2.settings",
        ids: &["CVE-2019-9515"],
        must: "more SETTINGS than anybody needs end the connection",
        shown: &[
            conf("http/2-flood-settings"),
            conf("http/2-flood-settings-of-windows"),
            conf("upstream/flood-of-settings"),
        ],
    },
    Advisory {
        row: "h2.priority",
        ids: &["CVE-2019-9513"],
        must: "more PRIORITY than anybody needs ends the connection",
        shown: &[conf("http/2-flood-priority")],
    },
    Advisory {
        row: "h2.window",
        ids: &["CVE-2019-9511", "CVE-2019-9517", "CVE-2019-9518"],
        must: "windows that never open, overflow or grow by one byte cost a bounded amount",
        shown: &[
            conf("http/2-flood-window"),
            conf("http/2-window-overflow"),
            conf("http/2-window-of-nothing"),
            conf("http/2-window-initial-overflow"),
        ],
    },
    Advisory {
        row: "h2.streams",
        ids: &["class: more streams than allowed"],
        must: "streams beyond the limit are refused, and who goes on is sent away",
        shown: &[conf("http/2-more-streams-than-allowed"), conf("limits/streams-of-a-connection")],
    },
    Advisory {
        row: "h2.upstream_goaway_zero",
        ids: &["CVE-2021-32780"],
        must: "an upstream that says goodbye and allows no streams costs its own requests at most",
        shown: &[
            conf("upstream/no-streams-at-all"),
            conf("upstream/no-streams-later"),
            conf("upstream/goaway-always"),
        ],
    },
    Advisory {
        row: "soak.h2_churn",
        ids: &["CVE-2023-35945"],
        must: "connections that come, ask, reset and go leave no memory behind",
        shown: &[Here(h2::churn)],
    },
    Advisory {
        row: "faults.runtime_stall",
        ids: &["CVE-2024-45506"],
        must: "a thread that turns without end is seen, told and not hidden behind a process that calls itself ready",
        shown: &[
            Here(stall::is_seen),
            unit("stall::tests::a_thread_that_stands_is_told_of_once_and_so_is_its_end"),
        ],
    },
    Advisory {
        row: "faults.emfile",
        ids: &["CVE-2020-8663", "RUSTSEC-2024-0376"],
        must: "without file descriptors nothing spins, and it serves again as soon as there are some",
        shown: &[e2e("hostile::a_node_out_of_file_descriptors_stays_calm")],
    },
    Advisory {
        row: "slow.head",
        ids: &["class: slowloris"],
        must: "a head that does not come is answered with 408 in time, however it drips",
        shown: &[Here(slow::head), conf("http/raw-slow-head")],
    },
    Advisory {
        row: "slow.silence",
        ids: &["class: slowloris"],
        must: "who connects and says nothing, in plain text or in TLS, is given up in time",
        shown: &[
            Here(slow::silence),
            e2e("hostile::a_flood_of_silent_handshakes_keeps_nobody_out"),
            control("hostile::silence_takes_no_room"),
        ],
    },
    Advisory {
        row: "slow.preface",
        ids: &["class: slowloris"],
        must: "half a preface of HTTP/2 is given up in time",
        shown: &[Here(slow::preface)],
    },
    Advisory {
        row: "slow.body",
        ids: &["class: slow body"],
        must: "who stops in the middle of a body is given up in time, and its origin is not told that it was whole",
        shown: &[Here(slow::body)],
    },
    Advisory {
        row: "slow.read",
        ids: &["class: slow read"],
        must: "who reads nothing costs a bounded amount of memory",
        shown: &[
            conf("http/2-window-never-opens"),
            conf("http/back-pressure-down"),
            e2e("torture::cross_node::stalled_readers_cost_a_bounded_amount_of_memory"),
        ],
    },
    Advisory {
        row: "slow.idle",
        ids: &["class: idle connections"],
        must: "idle connections end, and a limit of open ones sheds",
        shown: &[conf("limits/idle-connection"), conf("limits/open-connections")],
    },
    Advisory {
        row: "tls.renegotiate",
        ids: &["CVE-2021-3449", "CVE-2011-1473"],
        must: "nobody renegotiates, in TLS 1.2 either",
        shown: &[Here(tls::renegotiate)],
    },
    Advisory {
        row: "tls.pathological_chain",
        ids: &["RUSTSEC-2023-0053"],
        must: "chains of certificates made to be searched long are refused at once",
        shown: &[Here(tls::pathological_chain)],
    },
    Advisory {
        row: "tls.fragmented_hello",
        ids: &["RUSTSEC-2024-0399", "RUSTSEC-2026-0285"],
        must: "a hello that is cut anywhere is served; one that is wrong ends its own connection",
        shown: &[
            Here(tls::fragmented_hello),
            gateway("hello::a_hello_that_is_only_cut_strangely_is_served"),
            gateway("hello::hellos_made_to_hurt_end_soon_and_cost_nobody_else_anything"),
        ],
    },
    Advisory {
        row: "tls.bad_crl",
        ids: &["RUSTSEC-2026-0104"],
        must: "a revocation list that is none, cut or forged is refused before it is believed, and the last good one holds",
        shown: &[unit(
            "identity::tests::embedded::what_is_revoked_is_refused_and_a_bad_list_changes_nothing",
        )],
    },
    Advisory {
        row: "bomb.bodies",
        ids: &["CVE-2026-48044"],
        must: "bodies are never unpacked on their way",
        shown: &[Never("no body is decompressed anywhere")],
    },
    Advisory {
        row: "bomb.json",
        ids: &["CVE-2026-48042", "CVE-2026-26309"],
        must: "documents of great depth or length are refused in bounded time and memory",
        shown: &[
            control("evil::depth_without_bottom"),
            control("evil::words_of_a_megabyte"),
            control("hostile::what_is_small_on_the_wire_is_small_in_memory"),
            fuzz("config"),
            fuzz("discovery"),
        ],
    },
    Advisory {
        row: "metrics.cardinality",
        ids: &["CVE-2025-43915"],
        must: "what clients choose (hosts, paths, methods, agents) makes no series of metrics",
        shown: &[Here(logs::cardinality)],
    },
    Advisory {
        row: "control.evil_config",
        ids: &["ISTIO-SECURITY-2026-006"],
        must: "expressions without measure, rules without end and thousands of bad documents keep nobody else from an update",
        shown: &[
            control("evil::regular_expressions_without_measure"),
            control("evil::rules_without_end"),
            control("evil::ten_thousand_bad_documents"),
        ],
    },
    Advisory {
        row: "control.strangers",
        ids: &["CVE-2022-23635", "CVE-2022-24726"],
        must: "who has proven nothing is not parsed, and what is no review is a bad request",
        shown: &[
            control("hostile::garbage_ends_its_own_connection"),
            control("hostile::demands_have_limits"),
            control("webhook::what_is_no_review_is_a_bad_request"),
            control("certificates::who_proves_nothing_gets_nothing"),
        ],
    },
    Advisory {
        row: "control.flood",
        ids: &["class: floods of the control plane"],
        must: "floods are turned away, and nodes that renew do not wait",
        shown: &[
            control("flood::a_flood_of_requests_is_turned_away_and_nodes_that_renew_do_not_wait"),
            control("hostile::large_requests_are_read_in_turn"),
        ],
    },
];
