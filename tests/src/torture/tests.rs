use std::collections::BTreeSet;

use super::payload::Checker;
use super::*;

/// What an end of a case reports if all goes well.
fn fine(case: &Case, side: Side) -> Report {
    let seen = match side {
        Side::Client => &case.seen.client,
        Side::Server => &case.seen.server,
    };
    let digest = |direction| {
        let stream = Stream { flow: 7, direction };
        let mut bytes = vec![0; 1000];
        stream.fill(0, &mut bytes);
        let mut checker = Checker::new(stream);
        checker.check(&bytes);
        checker.digest()
    };
    Report {
        case: case.name.clone(),
        flow: 7,
        side,
        sent: digest(side.sends()),
        received: digest(side.other().sends()),
        fault: None,
        end: seen.end.clone(),
        urgent: seen.urgent,
        connected_ms: 1,
    }
}

fn case(name: &str) -> Case {
    find(name).expect("a case of that name")
}

#[test]
fn names_are_unique_and_lead_to_their_cases() {
    let names: BTreeSet<String> = all().iter().map(|case| case.name.clone()).collect();
    assert_eq!(names.len(), all().len());
    assert!(names.iter().all(|name| find(name).is_some_and(|case| case.name == *name)));
    assert!(find("bulk-12345").is_some() && find("bulk-x").is_none() && find("").is_none());
}

#[test]
fn only_a_whole_flow_can_be_inherited() {
    for case in all() {
        for steps in [&case.client, &case.server] {
            assert!(!steps.iter().skip(1).any(|step| *step == Step::Inherit), "{}", case.name);
        }
    }
}

#[test]
fn what_is_as_it_should_be_passes() {
    for case in all() {
        let (client, server) = (fine(&case, Side::Client), fine(&case, Side::Server));
        if case.to != To::Nobody {
            assert_eq!(judge(&case, Path::Direct, &client, Some(&server)), Ok(()));
        }
    }
}

#[test]
fn whatever_is_wrong_is_told() {
    let case = case("both-ways");
    let (client, server) = (fine(&case, Side::Client), fine(&case, Side::Server));
    let told = |client: &Report, server: Option<&Report>| {
        judge(&case, Path::Direct, client, server).expect_err("something is wrong")
    };
    let short = Report { received: Digest { bytes: 999, ..client.received }, ..client.clone() };
    assert!(told(&short, Some(&server)).contains("client has received 999 of 1000 bytes"));
    let other = Report { received: Digest { hash: 1, ..server.received }, ..server.clone() };
    assert!(told(&client, Some(&other)).contains("another hash"));
    let fault = Some(Fault::Displaced { at: 96, by: 8 });
    let lost = Report { fault, received: Digest { bytes: 992, ..server.received }, ..server.clone() };
    assert!(told(&client, Some(&lost)).contains("server: 8 bytes are lost at 96"));
    let reset = Report { end: End::Reset, ..client.clone() };
    assert!(told(&reset, Some(&server)).contains("client: ended by Reset, not by Fin"));
    let urgent = Report { urgent: true, ..server.clone() };
    assert!(told(&client, Some(&urgent)).contains("urgent data: true"));
    let another = Report { flow: 8, ..server };
    assert!(told(&client, Some(&another)).contains("flow 8"));
    assert!(told(&client, None).contains("has not seen it"));
}

#[test]
fn of_a_flow_that_breaks_a_beginning_is_enough_and_more_is_not() {
    let case = case("server-resets");
    let server = fine(&case, Side::Server);
    let client = Report { received: Digest { bytes: 900, hash: 5 }, ..fine(&case, Side::Client) };
    assert!(judge(&case, Path::Direct, &client, Some(&server)).is_err(), "this one has said that it has all");
    let case = self::case("reset-over-data-unread");
    let (server, all) = (fine(&case, Side::Server), fine(&case, Side::Client));
    let client = |bytes| Report { received: Digest { bytes, hash: 5 }, ..all.clone() };
    assert_eq!(judge(&case, Path::Direct, &client(900), Some(&server)), Ok(()));
    assert!(judge(&case, Path::Direct, &client(100_000), Some(&server)).is_err());
}

#[test]
fn a_crowded_server_may_turn_away_but_not_lose() {
    let case = case("crowded");
    let away = Report { end: End::Reset, received: Digest::default(), ..fine(&case, Side::Client) };
    assert_eq!(judge(&case, Path::Direct, &away, None), Ok(()));
    for end in [End::Fin, End::Stuck] {
        assert!(judge(&case, Path::Direct, &Report { end, ..away.clone() }, None).is_err());
    }
}

#[test]
fn a_flow_that_its_client_resets_may_be_missed_only_where_that_is_said() {
    let case = case("linger-zero-drops-what-is-unsent");
    let client = fine(&case, Side::Client);
    assert_eq!(judge(&case, Path::CrossNode, &client, None), Ok(()));
    assert!(judge(&case, Path::Express, &client, None).is_err());
}

#[test]
fn differences_are_asked_for_where_they_are_and_nowhere_else() {
    let case = case("urgent");
    let (client, server) = (fine(&case, Side::Client), fine(&case, Side::Server));
    let without = Report { urgent: false, ..server.clone() };
    for (path, right, wrong) in [(Path::Express, &server, &without), (Path::CrossNode, &without, &server)] {
        assert_eq!(judge(&case, path, &client, Some(right)), Ok(()));
        assert!(judge(&case, path, &client, Some(wrong)).is_err(), "{path}");
    }
}

#[test]
fn the_documentation_names_every_difference() {
    let page = include_str!("../../../docs/torture.md");
    for case in all() {
        let Some(Difference { paths, what, why, .. }) = case.but else { continue };
        let paths = paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let row = format!("| `{}` | {paths} | {what} | {why} |", case.name);
        assert!(page.contains(&row), "docs/torture.md lacks\n{row}");
    }
}
