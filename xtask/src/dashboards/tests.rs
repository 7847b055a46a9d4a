use std::collections::BTreeSet;

use super::*;

#[test]
fn the_committed_dashboards_are_the_generated_ones() {
    assert_eq!(generated().unwrap().drift().unwrap(), Vec::<String>::new());
}

#[test]
fn panels_do_not_overlap() {
    for dashboard in &ALL {
        let mut taken = BTreeSet::new();
        for panel in dashboard.panels() {
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in at("x")..at("x") + at("w") {
                assert!(x < u64::from(WIDTH), "{}", panel["title"]);
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{} of {}", panel["title"], dashboard.name);
                }
            }
        }
    }
}

#[test]
fn every_panel_says_what_it_is_once() {
    for dashboard in &ALL {
        let mut titles = BTreeSet::new();
        let panels = dashboard.rows.iter().flat_map(|row| row.panels);
        for panel in panels {
            assert!(titles.insert(panel.title), "{} of {} is there twice", panel.title, dashboard.name);
            assert!(!panel.description.is_empty() && !panel.questions.is_empty(), "{}", panel.title);
            let several = panel.questions.len() > 1;
            assert!(
                !several || panel.questions.iter().all(|(_, legend)| !legend.is_empty()),
                "{}",
                panel.title
            );
        }
    }
}

#[test]
fn questions_name_only_variables_that_are_there() {
    for dashboard in &ALL {
        let panels = dashboard.rows.iter().flat_map(|row| row.panels);
        let questions: Vec<_> =
            panels.flat_map(|panel| panel.questions).map(|(question, _)| *question).collect();
        for question in &questions {
            for (place, _) in question.match_indices('$') {
                let rest = &question[place + 1..];
                let name: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let known =
                    name == "__rate_interval" || dashboard.variables.iter().any(|one| one.name == name);
                assert!(known, "{name} in {question}");
            }
        }
        for one in dashboard.variables {
            let others = dashboard.variables.iter().map(|other| match other.choices {
                Choices::OfSeries(_, of) | Choices::OfAnswer(_, of) => of,
            });
            let used =
                questions.iter().copied().chain(others).any(|it| it.contains(&format!("${}", one.name)));
            assert!(used, "{} of {} decides nothing", one.name, dashboard.name);
        }
    }
}
