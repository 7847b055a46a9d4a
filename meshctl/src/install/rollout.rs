//! How far what is not there at once is: what runs pods, by its own status, and whom the API server asks.

use serde_json::Value;

/// How far an object is.
#[derive(Debug, PartialEq)]
pub(super) struct Progress {
    /// All pods are those of the newest template, and ready.
    pub(super) is_done: bool,
    /// For people.
    pub(super) text: String,
}

/// The kinds that [`progress`] reads.
pub(super) const KINDS: [&str; 3] = ["Deployment", "DaemonSet", "ValidatingWebhookConfiguration"];

/// Reads an object of [`KINDS`] as the API server tells it.
pub(super) fn progress(object: &Value) -> Progress {
    if object["kind"] == "ValidatingWebhookConfiguration" {
        return trusted(object);
    }
    let status = &object["status"];
    let number = |field: &str| status[field].as_u64().unwrap_or_default();
    if !is_seen(object) {
        return Progress { is_done: false, text: "no controller has looked at it yet".to_owned() };
    }
    let [wanted, updated, available] = if object["kind"] == "DaemonSet" {
        ["desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"].map(number)
    } else {
        let wanted = object["spec"]["replicas"].as_u64().unwrap_or(1);
        [wanted, number("updatedReplicas"), number("availableReplicas")]
    };
    // Old pods that are still there would be missed by those three.
    let old = if object["kind"] == "DaemonSet" { 0 } else { number("replicas").saturating_sub(updated) };
    let is_done = updated >= wanted && available >= wanted && old == 0;
    Progress { is_done, text: format!("{available} of {wanted} ready, {updated} of this version") }
}

/// Until the control plane has written whom to trust, the API server refuses all that users configure.
fn trusted(configuration: &Value) -> Progress {
    let mut webhooks = configuration["webhooks"].as_array().into_iter().flatten();
    let is_said = |it: &Value| it["clientConfig"]["caBundle"].as_str().is_some_and(|roots| !roots.is_empty());
    let text = "the control plane has not written yet by what the API server is to know it";
    Progress { is_done: webhooks.all(is_said), text: text.to_owned() }
}

/// How many nodes a daemon set is for, once its controller has said so: a new one's status has 0 there.
pub(super) fn wanted(set: &Value) -> Option<u64> {
    is_seen(set).then(|| set["status"]["desiredNumberScheduled"].as_u64()).flatten()
}

/// Whether the status is about the object as it is now.
fn is_seen(object: &Value) -> bool {
    let seen = object["status"]["observedGeneration"].as_u64();
    seen.is_some() && seen >= object["metadata"]["generation"].as_u64()
}

/// Whether the container of a pod has ended well, now or before it was started again.
pub(super) fn has_ended(pod: &Value) -> bool {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses
        .into_iter()
        .flatten()
        .any(|status| ["state", "lastState"].iter().any(|state| status[state]["terminated"]["exitCode"] == 0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_api_server_is_told_whom_to_trust() {
        let with = |roots: Value| {
            let webhooks =
                json!([{"clientConfig": {"caBundle": "Q0E="}}, {"clientConfig": {"caBundle": roots}}]);
            progress(&json!({"kind": "ValidatingWebhookConfiguration", "webhooks": webhooks})).is_done
        };
        assert!(with("Q0E=".into()) && !with("".into()) && !with(Value::Null));
    }

    #[test]
    fn it_is_done_when_all_pods_are_new_and_ready() {
        let deployment = |status: Value| json!({"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status});
        let of = |seen: u64, replicas: u64, updated: u64, available: u64| {
            let status = json!({"observedGeneration": seen, "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available});
            progress(&deployment(status)).is_done
        };
        assert!(of(2, 2, 2, 2));
        assert!(!of(1, 2, 2, 2), "the controller has not seen the change");
        assert!(!of(2, 3, 2, 2), "an old one is left");
        assert!(!of(2, 2, 1, 2) && !of(2, 2, 2, 1));
        assert!(!progress(&deployment(Value::Null)).is_done);
        let unsaid =
            json!({"kind": "Deployment", "metadata": {"generation": 1}, "status": {"observedGeneration": 1}});
        assert!(!progress(&unsaid).is_done, "who does not say how many wants one");
        let set = |updated: u64| {
            let status = json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": 2});
            progress(&json!({"kind": "DaemonSet", "metadata": {"generation": 1}, "status": status})).is_done
        };
        assert!(set(2) && !set(1));
    }

    #[test]
    fn how_many_are_wanted_is_known_when_somebody_has_counted() {
        let set = |seen: Value| json!({"metadata": {"generation": 1}, "status": {"observedGeneration": seen, "desiredNumberScheduled": 0}});
        assert_eq!(wanted(&set(Value::Null)), None);
        assert_eq!(wanted(&set(json!(0))), None);
        assert_eq!(wanted(&set(json!(1))), Some(0));
    }

    #[test]
    fn a_pod_has_ended_if_it_ended_well() {
        let pod = |state: Value| json!({"status": {"containerStatuses": [state]}});
        assert!(has_ended(&pod(json!({"state": {"terminated": {"exitCode": 0}}}))));
        assert!(has_ended(&pod(
            json!({"state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 0}}})
        )));
        assert!(!has_ended(&pod(json!({"state": {"terminated": {"exitCode": 1}}}))));
        assert!(!has_ended(&pod(json!({"state": {"running": {}}}))) && !has_ended(&json!({})));
    }
}
