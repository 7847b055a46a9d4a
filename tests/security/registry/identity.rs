//! Who somebody is, where a tunnel leads, and what names mean.

use super::Proof::{Here, In, Never};
use super::{Advisory, Suite, control, e2e, fuzz, unit};
use crate::revoked;

pub(super) const ROWS: &[Advisory] = &[
    Advisory {
        row: "san",
        ids: &["CVE-2026-47778", "CVE-2025-66220", "CVE-2020-15104"],
        must: "exactly one URI, of strict grammar, of a trust domain that is ours; nothing else in a certificate is an identity",
        shown: &[
            e2e("hostile::bad_handshakes_are_refused_by_sk_lookup"),
            e2e("hostile::bad_handshakes_are_refused_by_tc"),
            fuzz("x509"),
        ],
    },
    Advisory {
        row: "ca.constraints",
        ids: &["RUSTSEC-2026-0098", "RUSTSEC-2026-0099"],
        must: "nothing relies on the constraints of names in a CA",
        shown: &[Never(
            "the CA that is made has none, and identities are compared after the chain is verified",
        )],
    },
    Advisory {
        row: "ca.impersonate",
        ids: &["class: names in the request, nodes that ask for others' pods"],
        must: "a certificate names who asks, by its token; a node gets those of pods that run there",
        shown: &[
            control("certificates::a_request_says_nothing_but_its_key"),
            control("certificates::a_node_may_be_its_pods_and_nobody_elses"),
            control("hostile::nobody_is_a_node_that_it_is_not"),
            control("kubernetes_control::a_token_gets_the_certificates_of_its_node_and_no_others"),
        ],
    },
    Advisory {
        row: "hbone.authority",
        ids: &["class: where a CONNECT leads"],
        must: "a tunnel leads to the pod that it came to, to no port of the mesh, and at a waypoint to what is bound to it",
        shown: &[
            e2e("hostile::a_tunnel_leads_to_its_own_pod_and_nowhere_else"),
            e2e("waypoint::hostile::a_waypoint_leads_to_what_is_bound_to_it_and_nowhere_else"),
        ],
    },
    Advisory {
        row: "hbone.spoof_meta",
        ids: &["class: Forwarded, baggage"],
        must: "what a peer says about the client decides nothing",
        shown: &[e2e("hostile::a_forged_address_counts_for_nothing")],
    },
    Advisory {
        row: "hbone.by_hand",
        ids: &["class: the mesh's own ports"],
        must: "the ports of the mesh serve nobody who is not one of it",
        shown: &[e2e("hostile::the_ports_of_the_mesh_serve_nobody_by_hand")],
    },
    Advisory {
        row: "live.revoke",
        ids: &["class: what was allowed once"],
        must: "a change of policy cuts what it forbids within a second, on every path",
        shown: &[
            e2e("policy::a_change_cuts_live_connections"),
            e2e("policy::a_change_cuts_live_connections_over_hbone"),
            e2e("express::a_change_of_policy_cuts_open_flows_within_a_second"),
            e2e("express::shortcut::a_change_of_policy_cuts_flows_on_the_shortcut"),
        ],
    },
    Advisory {
        row: "live.tokens",
        ids: &["class: what was allowed once"],
        must: "requests under way end within a second when their token is no longer good",
        shown: &[
            e2e("tokens::a_change_of_keys_cuts_requests_under_way"),
            e2e("waypoint::policies::requests_and_tokens_are_decided_about_at_the_waypoint"),
        ],
    },
    Advisory {
        row: "live.crl",
        ids: &["class: what was trusted once"],
        must: "who is revoked is refused as soon as it is told, by nodes and by gateways",
        shown: &[
            e2e("identity::what_is_revoked_is_refused_as_soon_as_it_is_told"),
            e2e("identity::what_is_open_ends_when_its_certificate_is_revoked"),
            e2e("identity::what_is_open_ends_when_its_certificate_is_revoked_embedded"),
            unit("tls::tests::what_was_proven_is_judged_again"),
            Here(revoked::ends_what_is_open),
        ],
    },
    Advisory {
        row: "dns.packets",
        ids: &[
            "CVE-2026-123570",
            "CVE-2026-123604",
            "CVE-2026-123608",
            "RUSTSEC-2023-0041",
            "GO-2025-3415",
            "CVE-2025-62408",
        ],
        must: "packets that lie about what they hold end in silence or a format error, and cost what they weigh",
        shown: &[
            e2e("dns::hostile::garbage_ends_in_silence_or_a_format_error"),
            e2e("dns::hostile::a_silent_resolver"),
            fuzz("dns"),
        ],
    },
    Advisory {
        row: "dns.poison",
        ids: &["class: forged answers"],
        must: "an answer is believed from whom it was asked of, to the port, number and spelling that it was asked with",
        shown: &[
            e2e("dns::hostile::forged_answers_are_not_believed"),
            e2e("dns::hostile::answers_in_another_case_are_asked_for_again"),
        ],
    },
    Advisory {
        row: "bypass",
        ids: &["class: raw sockets, IPv6, older connections, SO_MARK"],
        must: "what an enrolled pod sends around the mesh is dropped, and nothing in a pod changes enrolment",
        shown: &[
            e2e("hostile::nothing_leaves_an_enrolled_pod_uncaptured"),
            e2e("faults::the_guard_stops_what_goes_around"),
            In(Suite::Ebpf, "every_shape_of_connect_by_sk_lookup"),
            In(Suite::Ebpf, "every_shape_of_connect_by_tc"),
            e2e("hostile::no_mark_of_a_pod_gets_past_the_node_by_sk_lookup"),
            e2e("hostile::no_mark_of_a_pod_gets_past_the_node_by_tc"),
        ],
    },
    Advisory {
        row: "spiffe.grammar",
        ids: &["CVE-2025-66220"],
        must: "no id with a percent sign, dots, zeros or more than 2,048 bytes is one",
        shown: &[
            unit("id::tests::identities_that_are_refused"),
            unit("id::tests::the_length_limit_is_exact"),
            unit("id::tests::names_cannot_smuggle_in_path_parts"),
            fuzz("spiffe"),
        ],
    },
];
