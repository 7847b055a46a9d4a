use std::net::Ipv4Addr;

use http::Request;

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Of a mesh in which nothing is.
pub(crate) fn dashboard() -> Dashboard {
    Dashboard {
        hub: Arc::default(),
        findings: Arc::default(),
        traffic: Arc::default(),
        options: PageOptions::default(),
        cluster: "Kubernetes".to_owned(),
        root_namespace: "istio-system".to_owned(),
        config: None,
    }
}

fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn status(uri: &str) -> u16 {
    dashboard().answer(HERE, &parts(uri, &[("host", "localhost:15014")])).status().as_u16()
}

#[test]
fn the_page_is_for_this_machine() {
    let page = dashboard();
    let asked =
        |peer: IpAddr, host: &str| page.answer(peer, &parts("/api/v1/mesh", &[("host", host)])).status();
    for host in ["localhost", "LocalHost:15014", "127.0.0.1", "127.8.9.1:1", "[::1]:15014"] {
        assert_eq!(asked(HERE, host), 200, "{host}");
    }
    for host in
        ["", "evil.example", "localhost.evil.example", "10.0.0.1:15014", "[fd00::1]", "::1", "localhost."]
    {
        assert_eq!(asked(HERE, host), 403, "{host}");
    }
    for peer in ["10.0.0.1", "fd00::1", "::ffff:10.0.0.1"] {
        assert_eq!(asked(peer.parse().unwrap(), "localhost"), 403, "{peer}");
    }
    assert_eq!(asked("::ffff:127.0.0.1".parse().unwrap(), "localhost"), 200);
    let twice = parts("/", &[("host", "localhost"), ("host", "evil.example")]);
    assert_eq!(page.answer(HERE, &twice).status(), 403);
    assert_eq!(page.answer(HERE, &parts("http://evil.example/", &[("host", "localhost")])).status(), 403);
}

#[test]
fn everything_it_needs_is_here() {
    let page = std::str::from_utf8(assets::find("/").unwrap().content).unwrap();
    let mut files: Vec<&str> = page.split(['"', '\'']).filter(|word| word.starts_with('/')).collect();
    files.extend(["/main.js", "/kit.js", "/layout.js", "/graph.js", "/chart.js", "/lists.js", "/details.js"]);
    for file in files {
        let asset = assets::find(file).unwrap_or_else(|| panic!("{file} is not in the binary"));
        let text = std::str::from_utf8(asset.content).unwrap();
        // What a browser would load; addresses that people are told of are text.
        let text = text.replace('\'', "\"");
        for word in
            ["src=\"http", "href=\"http", "from \"http", "fetch(\"http", "url(http", "@import", "\"//"]
        {
            assert!(!text.contains(word), "{file} asks somebody else: {word}");
        }
    }
    let response = dashboard().answer(HERE, &parts("/", &[("host", "localhost")]));
    let policy = response.headers().get("content-security-policy").unwrap().to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(response.headers().get("x-content-type-options").unwrap(), "nosniff");
}

/// Libraries are what their authors have published: the sums are those of the files in their packages.
#[test]
fn libraries_are_as_published() {
    let notes = include_str!("../../web/lib/LIBRARIES.md");
    let rows: Vec<Vec<&str>> = notes
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| file"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 5);
    for row in rows {
        let [file, .., sum] = row[..] else { panic!("{row:?}") };
        let asset =
            assets::find(&format!("/lib/{file}")).unwrap_or_else(|| panic!("{file} is not in the binary"));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, asset.content);
        let seen: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(seen.concat(), sum, "{file}");
    }
}

#[test]
fn every_path_of_the_api_answers() {
    for path in ["mesh", "graph", "workloads", "services", "policies", "problems", "nodes"] {
        assert_eq!(status(&format!("/api/v1/{path}")), 200, "{path}");
    }
    for path in ["", "nothing", "workloads/a", "workloads/a/b", "services/a/b", "policies/a/b/c", "mesh/x"] {
        assert_eq!(status(&format!("/api/v1/{path}")), 404, "{path}");
    }
    for query in ["window=9", "window=3601", "window=x", "level=pod", "name=x", "namespace=%ff"] {
        assert_eq!(status(&format!("/api/v1/graph?{query}")), 400, "{query}");
    }
    assert_eq!(status("/api/v1/graph?window=600&level=workload&namespace=a,b"), 200);
}
