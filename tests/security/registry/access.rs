//! Ways around policy.

use super::Proof::Here;
use super::{Advisory, conf, control, e2e, fuzz, unit};
use crate::{headers, logs};

pub(super) const ROWS: &[Advisory] = &[
    Advisory {
        row: "authz.fragment",
        ids: &["CVE-2021-39156", "CVE-2023-45539"],
        must: "a fragment in the target is refused, so that no rule sees another path than the origin",
        shown: &[conf("http/raw-fragment")],
    },
    Advisory {
        row: "authz.host",
        ids: &["CVE-2021-39155"],
        must: "upper case, a port and a dot at the end make no other host",
        shown: &[
            unit("http::host::tests::every_spelling_is_the_same_host"),
            fuzz("authority"),
            fuzz("host"),
            unit("policy::request::tests::hosts_have_one_form"),
        ],
    },
    Advisory {
        row: "authz.path",
        ids: &["CVE-2021-31920", "CVE-2019-9901", "CVE-2026-26205"],
        must: "one normal form of the path, matched and sent on; what nobody means is refused",
        shown: &[
            conf("http/raw-dot-segments"),
            conf("http/raw-dot-escapes"),
            conf("http/raw-backslash"),
            conf("http/raw-escapes-of-nothing"),
            conf("settings/path-merge-slashes"),
            conf("settings/path-decode-slashes"),
            conf("settings/path-as-it-is"),
            unit("http::path::tests::the_normal_form_is_normal"),
            fuzz("path"),
        ],
    },
    Advisory {
        row: "authz.multi_header",
        ids: &["CVE-2026-26308", "CVE-2021-32777", "GO-2023-1785"],
        must: "each value of a header counts by itself",
        shown: &[
            unit("policy::request::tests::each_value_of_a_header_counts"),
            unit("policy::tests::requests::several_values_of_a_header"),
        ],
    },
    Advisory {
        row: "authz.sa_dot",
        ids: &["CVE-2026-39350"],
        must: "no name becomes a regular expression",
        shown: &[
            unit("policy::tests::names::a_dot_in_the_name_of_a_peer_is_a_dot"),
            unit("policy::tests::names::a_dot_in_what_is_asked_for_is_a_dot"),
            unit("policy::tests::names::an_expression_in_the_place_of_a_name_matches_nobody"),
        ],
    },
    Advisory {
        row: "authz.wildcard_tcp",
        ids: &["CVE-2020-16844"],
        must: "a DENY of `*-suffix` holds for bytes as for requests",
        shown: &[
            e2e("policy::a_change_cuts_live_connections"),
            e2e("policy::allow_admits_whom_it_names_and_deny_comes_first"),
        ],
    },
    Advisory {
        row: "authz.layer7_fails_closed",
        ids: &["class: attributes that cannot be known"],
        must: "what a rule cannot see never lets anybody in",
        shown: &[
            e2e("policy::layer_7_attributes_fail_closed_both_ways"),
            unit("policy::tests::without_a_request_what_is_about_requests_fails_closed_both_ways"),
            unit("policy::tests::requests::what_cannot_be_understood_fails_closed"),
        ],
    },
    Advisory {
        row: "authz.empty_set",
        ids: &["GO-2024-3208", "GO-2025-4167", "GO-2022-0959", "GO-2023-2078"],
        must: "DENY comes first, an empty set matches nothing, and nobody enrols or names itself by labels it can set",
        shown: &[
            e2e("policy::allow_admits_whom_it_names_and_deny_comes_first"),
            unit("policy::tests::an_empty_spec_allows_nothing_and_an_empty_rule_everything"),
            unit("policy::tests::property::the_engine_agrees_with_the_reference"),
        ],
    },
    Advisory {
        row: "hdr.underscore",
        ids: &["class: names that applications read as others"],
        must: "names with an underscore are refused from strangers",
        shown: &[conf("http/raw-underscore")],
    },
    Advisory {
        row: "hdr.spoof",
        ids: &["CVE-2023-27487", "CVE-2024-45806"],
        must: "what only proxies may say is not taken from strangers; a private address proves nothing",
        shown: &[
            Here(headers::spoofed),
            conf("settings/no-trusted-proxy"),
            conf("settings/trusted-proxies"),
            conf("settings/trusted-proxies-that-are-not-there"),
            e2e("headers::strangers_say_nothing_of_themselves_and_peers_are_named"),
        ],
    },
    Advisory {
        row: "hdr.client_cert",
        ids: &[
            "class: X-Forwarded-Client-Cert of strangers",
            "class: names in certificates that write elements",
        ],
        must: "who has which certificate is said by the gateway alone, unless somebody before it is trusted to; names are quoted",
        shown: &[
            Here(headers::certificates),
            unit("http::xfcc::tests::each_rule"),
            unit("http::xfcc::tests::names_do_not_become_elements"),
            e2e("headers::strangers_say_nothing_of_themselves_and_peers_are_named"),
            e2e("headers::a_waypoint_names_the_peer"),
        ],
    },
    Advisory {
        row: "jwt",
        ids: &["CVE-2026-31837", "CVE-2021-21378", "class: alg, kid, crit, aud, exp"],
        must: "the key decides the algorithm; without a key nobody is believed",
        shown: &[
            unit("l7::authn::tests::jwt_what_attackers_send_is_refused"),
            unit("l7::authn::tests::jwt_every_algorithm_of_a_key_is_checked_with_that_key"),
            unit("l7::authn::tests::jwt_each_rule_is_asked_alone"),
            unit("authn::tests::nothing_that_strangers_send_is_too_much"),
            unit("authn::json::tests::what_could_be_read_in_two_ways_is_not_read"),
            fuzz("token"),
            fuzz("keys"),
            conf("tokens/refused"),
            conf("tokens/several-rules"),
        ],
    },
    Advisory {
        row: "jwt.jwks_down",
        ids: &["CVE-2026-31837"],
        must: "no key that could not be fetched is made up for; the last good ones hold for a bounded time",
        shown: &[
            conf("tokens/keys-down"),
            unit("keys::tests::the_last_keys_hold_for_a_while_and_then_there_are_none"),
        ],
    },
    Advisory {
        row: "ssrf",
        ids: &["GHSA-fgw5-hp8f-xfhc"],
        must: "nobody has the mesh fetch what he could not reach himself",
        shown: &[
            unit("authn::site::tests::what_is_not_everybodys_may_not_be_asked"),
            unit("authn::site::tests::a_url_is_read_in_one_way_or_not_at_all"),
            unit("keys::tests::keys_are_fetched_from_a_service_and_from_nothing_else_on_this_machine"),
            unit("keys::tests::what_is_not_keys_is_not_taken_and_nobody_is_led_elsewhere"),
        ],
    },
    Advisory {
        row: "control.host_takeover",
        ids: &["ISTIO-SECURITY-2026-002"],
        must: "rules about another namespace's host are told",
        shown: &[unit("analyze::tests::cases::every_case_says_one_thing_and_nothing_once_mended")],
    },
    Advisory {
        row: "admin.exposure",
        ids: &["CVE-2026-31838", "GO-2025-3416"],
        must: "the admin port is the machine's alone, web pages do not get at it, and it shows no keys",
        shown: &[
            e2e("admin::the_admin_port_is_for_the_node_alone"),
            e2e("admin::no_web_page_gets_at_the_admin_port"),
            e2e("admin::the_dump_has_everything_but_keys"),
            Here(logs::admin),
        ],
    },
    Advisory {
        row: "netpol.same_node",
        ids: &["GO-2026-4856"],
        must: "a NetworkPolicy sees the pods' own addresses also within a node",
        shown: &[
            e2e("express::pods_of_a_node_reach_each_other_past_the_proxy"),
            e2e("express::a_network_policy_within_a_node_is_kept_to"),
            e2e("carried::a_network_policy_sees_what_the_node_carries_within_it"),
            e2e("carried::the_same_with_steering_by_tc_and_a_bridge"),
        ],
    },
    Advisory {
        row: "wire.no_plaintext",
        ids: &["GO-2024-2656", "GO-2024-2657", "GO-2025-3635"],
        must: "nothing of enrolled pods leaves a node in plain text, on enrolment and restart neither",
        shown: &[
            e2e("enrol::older_connections_are_reset_on_enrolment"),
            e2e("hostile::nothing_leaves_an_enrolled_pod_uncaptured"),
            e2e("window::nothing_is_readable_on_the_wire_while_pods_come_and_go"),
        ],
    },
    Advisory {
        row: "boot.no_window",
        ids: &["GO-2024-3072"],
        must: "no policy is out of force while a node starts, is killed or restarts",
        shown: &[
            e2e("faults::a_killed_node_fails_closed_by_sk_lookup"),
            e2e("faults::a_killed_node_fails_closed_by_tc"),
            e2e("admin::a_node_is_not_ready_before_its_configuration"),
            e2e("window::no_policy_is_out_of_force_for_a_moment"),
            e2e("window::a_pod_that_is_taken_in_is_open_to_nobody_afterwards"),
        ],
    },
    Advisory {
        row: "circles",
        ids: &["class: rules that lead back"],
        must: "a request that goes round ends",
        shown: &[conf("http/circle-of-a-gateway"), conf("http/circle-of-delegates")],
    },
    Advisory {
        row: "control.secrets",
        ids: &["class: keys over the wire"],
        must: "keys of certificates go to gateways that may have them, proven, and to nobody else",
        shown: &[
            super::gateway("wire::others_are_told_nothing"),
            super::gateway("wire::keys_come_over_the_wire_to_who_has_proven_to_be_a_gateway_there"),
            super::gateway("wire::keys_are_for_the_gateway_that_names_them_alone"),
            control("gateway_keys::a_pod_has_the_keys_of_gateways_that_select_it"),
        ],
    },
    Advisory {
        row: "control.log",
        ids: &["class: floods of the log"],
        must: "who is turned away does not fill the log",
        shown: &[
            control("hostile::the_turned_away_do_not_fill_the_log"),
            unit("log_gate::tests::a_flood_is_worth_a_line_a_second"),
        ],
    },
];
