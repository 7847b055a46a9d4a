use super::*;
use crate::report::request::tests::World;
use crate::report::request::{Flags, Perspective, RequestHeaderFacts};

fn line(format: &AccessFormat, facts: &RequestFacts<'_>) -> String {
    let mut out = Vec::new();
    format.write(&mut out, &mut Clock::default(), facts);
    String::from_utf8(out).unwrap()
}

fn custom(format: &str, facts: &RequestFacts<'_>) -> String {
    line(&AccessFormat::parse(format).unwrap(), facts)
}

/// A request that was refused before anything was known.
fn refused(world: &World) -> RequestFacts<'_> {
    RequestFacts {
        code: 0,
        flags: Flags::DC | Flags::UF,
        details: "downstream remote\tdisconnect",
        termination_details: "",
        upstream_failure: "TLS \"error\"",
        upstream_service_time: None,
        headers: RequestHeaderFacts {
            user_agent: Some(b"odd\xff\nagent"),
            x_forwarded_for: Some(b"1.2.3.4"),
            ..RequestHeaderFacts::NONE
        },
        upstream_host: None,
        upstream_cluster: "",
        upstream_local: None,
        downstream_local: Some("[fd00::1]:80".parse().unwrap()),
        sni: "a.example",
        route_name: "",
        ..world.facts(Perspective::Source)
    }
}

#[test]
fn a_request_as_text() {
    let world = World::new();
    let text = AccessFormat::standard(AccessLogFormat::Text);
    assert_eq!(
        line(text, &world.facts(Perspective::Source)),
        "[2026-11-21T09:00:00.123Z] \"GET /reviews/0?x=1 HTTP/1.1\" 200 - via_upstream - \"-\" 0 295 12 8 \"-\" \
         \"curl/8.0\" \"6f867212-d7cf-4c68-9468-6fbc5f927335\" \"server:8080\" \"10.0.1.1:8080\" \
         outbound|8080||server.default.svc.cluster.local 10.0.0.1:34460 10.96.0.1:8080 10.0.0.1:42980 - default\n"
    );
    assert_eq!(
        line(text, &refused(&world)),
        "[2026-11-21T09:00:00.123Z] \"GET /reviews/0?x=1 HTTP/1.1\" 0 UF,DC downstream_remote_disconnect - \
         \"TLS \\\"error\\\"\" 0 295 12 - \"1.2.3.4\" \"odd\u{fffd}\\nagent\" \"-\" \"server:8080\" \"-\" - - \
         [fd00::1]:80 10.0.0.1:42980 a.example -\n"
    );
}

#[test]
fn a_request_as_json() {
    let world = World::new();
    let json = AccessFormat::standard(AccessLogFormat::Json);
    assert_eq!(
        line(json, &world.facts(Perspective::Source)),
        "{\"start_time\":\"2026-11-21T09:00:00.123Z\",\"route_name\":\"default\",\"method\":\"GET\",\
         \"path\":\"/reviews/0?x=1\",\"protocol\":\"HTTP/1.1\",\"response_code\":200,\"response_flags\":\"-\",\
         \"response_code_details\":\"via_upstream\",\"connection_termination_details\":null,\
         \"bytes_received\":0,\"bytes_sent\":295,\"duration\":12,\"upstream_service_time\":\"8\",\
         \"x_forwarded_for\":null,\"user_agent\":\"curl/8.0\",\
         \"request_id\":\"6f867212-d7cf-4c68-9468-6fbc5f927335\",\"authority\":\"server:8080\",\
         \"upstream_host\":\"10.0.1.1:8080\",\
         \"upstream_cluster\":\"outbound|8080||server.default.svc.cluster.local\",\
         \"upstream_local_address\":\"10.0.0.1:34460\",\"downstream_local_address\":\"10.96.0.1:8080\",\
         \"downstream_remote_address\":\"10.0.0.1:42980\",\"requested_server_name\":null,\
         \"upstream_transport_failure_reason\":null}\n"
    );
    let value: serde_json::Value = serde_json::from_str(&line(json, &refused(&world))).unwrap();
    assert_eq!(value["user_agent"], "odd\u{fffd}\nagent");
    assert_eq!(value["response_code"], 0);
    assert_eq!(value["response_flags"], "UF,DC");
    assert_eq!(value["upstream_transport_failure_reason"], "TLS \"error\"");
    assert_eq!(value.as_object().unwrap().len(), 24);
}

#[test]
fn formats_of_users_text() {
    let world = World::new();
    let request = |name: &str| match name {
        "x-b" => Some(&b"from b"[..]),
        ":path" => Some(&b"/rewritten?q=1"[..]),
        "x-envoy-original-path" => Some(&b"/reviews/0"[..]),
        ":authority" => Some(&b"sent:80"[..]),
        _ => None,
    };
    let response = |name: &str| (name == "content-type").then_some(&b"text/html; charset=utf-8"[..]);
    let trailer = |name: &str| (name == "grpc-message").then_some(&b"said last"[..]);
    let headers = RequestHeaderFacts {
        request: &request,
        response: &response,
        trailer: &trailer,
        ..RequestHeaderFacts::NONE
    };
    let trace = Some(0xabc);
    let facts = RequestFacts { grpc_status: Some(14), headers, trace, ..world.facts(Perspective::Source) };
    for (format, expected) in [
        ("", "\n"),
        ("100 %% ü\n", "100 % ü\n"),
        ("%REQ(X-A?x-b)%|%REQ(X-A?X-B):4%|%REQ(X-A)%|%REQ(X-B):0%", "from b|from|-|\n"),
        ("%REQ(:PATH)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH):4% %REQ(HOST)%", "/rewritten?q=1 /rev sent:80\n"),
        ("%RESP(Content-Type):9%%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "text/html8\n"),
        ("%GRPC_STATUS% %GRPC_STATUS_NUMBER%", "Unavailable 14\n"),
        ("%GRPC_STATUS(NUMBER)% %REQ_WITHOUT_QUERY(:PATH):5%", "14 /rewr\n"),
        ("%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%|%START_TIME(%s)%", "2026-11-21T09:00:00.123Z|1795251600\n"),
        ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "9 3 2\n"),
        ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %TRACE_ID%", "10.0.0.9:5 00000000000000000000000000000abc\n"),
        ("%TRAILER(GRPC-MESSAGE)% %TRAILER(x)%", "said last -\n"),
        ("a %NO_SUCH% %DYNAMIC_METADATA(a:b):3% b", "a - - b\n"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", "10.0.0.1 8080\n"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/default/sa/client\n"),
        ("%UPSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/default/sa/server\n"),
    ] {
        assert_eq!(custom(format, &facts), expected, "{format}");
    }
}

#[test]
fn formats_of_users_json() {
    let world = World::new();
    let format = AccessFormat::parse_json(
        r#"{"z": "%RESPONSE_CODE%", "a \"b": {"status": "%RESPONSE_CODE% 100%%", "n": 1, "no": "%REQ(X-A)%"},
            "list": ["%DURATION%", null, "é\n"], "half": "<%REQ(USER-AGENT)%>", "percent": "%%"}"#,
    );
    let line = line(&format.unwrap(), &refused(&world));
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    let expected = serde_json::json!({
        "z": 0,
        "a \"b": {"status": "0 100%", "n": 1, "no": null},
        "list": [12, null, "é\n"],
        "half": "<odd\u{fffd}\nagent>",
        "percent": "%",
    });
    assert_eq!(value, expected);
    assert_eq!(line.matches('\n').count(), 1);
}

#[test]
fn what_is_no_format_says_why() {
    use FormatError::{Arguments, NotAnObject, NotAnOperator};
    for (format, error) in [
        ("50% of all", NotAnOperator(" of all".to_owned())),
        ("%START_TIME", NotAnOperator("START_TIME".to_owned())),
        ("%REQ(X", NotAnOperator("REQ(X".to_owned())),
        ("%REQ(X)y%", NotAnOperator("REQ(X)y%".to_owned())),
        ("%REQ%", Arguments("REQ".to_owned())),
        ("%REQ()%", Arguments("REQ()".to_owned())),
        ("%RESP(A?)%", Arguments("RESP(A?)".to_owned())),
        ("%REQ(A):x%", Arguments("REQ(A):x".to_owned())),
        ("%DURATION(ms)% b", Arguments("DURATION(ms)".to_owned())),
    ] {
        assert_eq!(AccessFormat::parse(format).unwrap_err(), error, "{format}");
    }
    let odd = AccessFormat::parse("%NO_SUCH% %DURATION% %DYNAMIC_METADATA(a:b):3%").unwrap();
    assert_eq!(odd.unknown(), ["NO_SUCH", "DYNAMIC_METADATA(a:b):3"]);
    for format in ["", "[]", "{", "\"%DURATION%\""] {
        assert_eq!(AccessFormat::parse_json(format).unwrap_err(), NotAnObject, "{format}");
    }
    assert!(AccessFormat::parse_json("{\"a\": \"%\"}").is_err());
}

#[test]
fn long_values_are_capped_and_numbers_are_whole() {
    let world = World::new();
    let path = "x".repeat(2_100);
    let facts = RequestFacts { bytes_sent: u64::MAX, path: &path, ..world.facts(Perspective::Source) };
    let line = custom("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %BYTES_SENT% %BYTES_RECEIVED%", &facts);
    assert_eq!(line, format!("{}... {} 0\n", "x".repeat(2_045), u64::MAX));
}
