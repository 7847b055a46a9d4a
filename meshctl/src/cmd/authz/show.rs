//! Answers of `meshctl authz check`.

use mesh_core::policy::{Decision, Effect, Explained, External, Matches, Notes};
use serde::Serialize;

use crate::table::{align, one_line};

/// What policies say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    decision: Verdict,
    /// Why, in a sentence.
    reason: String,
    /// The dry-run policy that would deny what is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_be_denied_by: Option<String>,
    /// What the access log would say of a request that is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_code_details: Option<String>,
    /// Each policy that applies, in the order in which they are asked.
    policies: Vec<Explained>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Allowed,
    Denied,
    NeedsRequest,
    NeedsExternal,
}

impl Answer {
    pub(super) fn of(decision: Decision<Notes>, policies: Vec<Explained>) -> Self {
        let enforced = policies.iter().any(|it| it.effect == Effect::Allow && !it.dry_run);
        let mut answer = Self {
            decision: Verdict::Allowed,
            reason: if enforced { "an ALLOW policy matches" } else { "no ALLOW policy applies" }.to_owned(),
            would_be_denied_by: None,
            response_code_details: None,
            policies,
        };
        match decision {
            Decision::Allowed(notes) => {
                answer.would_be_denied_by = notes.would_be_denied.map(|policy| policy.to_string());
            }
            Decision::Denied(denied) => {
                answer.decision = Verdict::Denied;
                answer.response_code_details = Some(denied.by.details());
                answer.reason = denied.to_string();
            }
            Decision::NeedsRequest => {
                answer.decision = Verdict::NeedsRequest;
                "it depends on the requests; what is no request is denied".clone_into(&mut answer.reason);
            }
            Decision::NeedsExternal(External { policy, rule, provider }) => {
                answer.decision = Verdict::NeedsExternal;
                answer.reason = format!("{policy}, rule {rule}, leaves it to provider {provider}");
            }
        }
        answer
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.decision == Verdict::Allowed
    }
}

impl Verdict {
    const fn text(self) -> &'static str {
        match self {
            Self::Allowed => "ALLOWED",
            Self::Denied => "DENIED",
            Self::NeedsRequest => "DEPENDS ON THE REQUEST",
            Self::NeedsExternal => "FOR AN EXTERNAL AUTHORIZER TO SAY",
        }
    }
}

/// For people.
pub(super) fn table(answer: &Answer) -> String {
    let mut text = format!("{}: {}\n", answer.decision.text(), one_line(&answer.reason));
    if let Some(policy) = &answer.would_be_denied_by {
        text.extend(["The dry-run policy ", policy, " would deny it.\n"]);
    }
    if answer.policies.is_empty() {
        return text + "No policy applies.\n";
    }
    let head =
        ["ACTION", "AuthorizationPolicy", "RULES", "RULE", "MATCHES", "WHY NOT"].map(str::to_owned).to_vec();
    let rows = answer.policies.iter().flat_map(rows);
    text + "\n" + &align(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn rows(policy: &Explained) -> Vec<Vec<String>> {
    let action = format!("{}{}", effect(policy.effect), if policy.dry_run { " (dry run)" } else { "" });
    let row = |rule: String, matches: Matches, why: &str| {
        let (name, rules) = (policy.policy.to_string(), policy.rules.len().to_string());
        vec![action.clone(), name, rules, rule, word(matches).to_owned(), one_line(why)]
    };
    if policy.rules.is_empty() {
        return vec![row("-".to_owned(), Matches::No, "it has no rule that can match")];
    }
    let rule = |rule: &mesh_core::policy::ExplainedRule| {
        row(rule.index.to_string(), rule.matches, &rule.because.join("; "))
    };
    policy.rules.iter().map(rule).collect()
}

const fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::MutualTls => "MUTUAL_TLS",
        Effect::Custom => "CUSTOM",
        Effect::Deny => "DENY",
        Effect::Allow => "ALLOW",
        Effect::Audit => "AUDIT",
    }
}

const fn word(matches: Matches) -> &'static str {
    match matches {
        Matches::No => "no",
        Matches::Open => "?",
        Matches::Yes => "yes",
    }
}
