//! What runs Gateways: the leader makes what [`Plan`]s say, by server-side apply, and owned by the Gateway, so that it goes
//! with it. What others have made under the same names is never taken over: the Gateway's status says what is in the way.
//!
//! What was changed or removed by hand is put right at once, and what is right already is not written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use mesh_core::gateway_api::{Generated, Plan};
use mesh_core::resource::ObjectKey;
use mesh_source::kubernetes::Client;
use mesh_source::kubernetes::leader::Leadership;
use mesh_source::kubernetes::status::Statuses;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::standing::{Id, Known, Standing};
use super::gateway_api::{GatewayApi, Plans};
use super::{CallError, MANAGER, call};

mod standing;

/// Makes what runs Gateways while this process leads.
pub(super) struct Deployer {
    client: Client,
    leadership: Leadership,
    plans: watch::Receiver<Arc<Plans>>,
    told: Told,
    /// What was written last of each object, and what came of it.
    done: BTreeMap<Id, Done>,
    /// What was said last of each Gateway.
    complaints: BTreeMap<ObjectKey, String>,
}

/// Where what is in the way is told.
pub(super) struct Told {
    pub(super) gateway_api: Arc<Mutex<GatewayApi>>,
    pub(super) statuses: Statuses,
}

struct Done {
    object: Value,
    uid: String,
    version: String,
}

/// Why a Gateway does not have all that it is to have.
#[derive(Debug)]
enum Obstacle {
    /// Its user can do something about it.
    InTheWay(String),
    /// It may be different in a moment.
    Passing(String),
}

impl Deployer {
    /// Acts on `plans`.
    pub(super) fn new(client: Client, leadership: Leadership, told: Told) -> Self {
        let plans = told.gateway_api.lock().unwrap_or_else(PoisonError::into_inner).plans();
        Self { client, leadership, plans, told, done: BTreeMap::new(), complaints: BTreeMap::new() }
    }

    /// Acts until the election has ended.
    pub(super) async fn run(mut self) {
        while self.leadership.wait_until(true).await {
            // Another may have led in the meantime.
            self.done.clear();
            let (known, mut standing) = watch::channel(Known::default());
            let mut watches = JoinSet::new();
            standing::follow(&self.client, &known, &mut watches);
            while self.leadership.is_leading() {
                let now = standing.borrow_and_update().clone();
                let is_done = self.round(&now).await;
                let mut leadership = self.leadership.clone();
                tokio::select! {
                    () = changed(&mut self.plans) => {}
                    () = changed(&mut standing) => {}
                    () = sleep(if is_done { LOOK } else { RETRY }) => {}
                    _ = leadership.wait_until(false) => {}
                }
                sleep(GAP).await;
            }
        }
    }

    /// Does all there is to do; whether all of it came out well.
    async fn round(&mut self, known: &Known) -> bool {
        if !known.is_complete() {
            return true;
        }
        let plans = Arc::clone(&self.plans.borrow_and_update());
        self.complaints.retain(|gateway, _| plans.contains_key(gateway));
        let wanted: BTreeSet<Id> = plans.values().flat_map(objects).map(Id::of).collect();
        self.done.retain(|id, _| wanted.contains(id));
        let mut is_done = true;
        for (gateway, plan) in plans.iter() {
            let Plan::Objects(objects) = plan else { continue };
            if !self.leadership.is_leading() {
                return true;
            }
            let outcome = self.settle(gateway, objects, known).await;
            is_done &= outcome.is_ok();
            self.report(gateway, objects, outcome.err()).await;
        }
        is_done
    }

    /// Makes the objects of a Gateway, all or none, and removes what is not among them any more.
    async fn settle(
        &mut self,
        gateway: &ObjectKey,
        objects: &[Generated],
        known: &Known,
    ) -> Result<(), Obstacle> {
        let mut standing = Vec::new();
        for object in objects {
            standing.push(self.look(object, known).await?);
        }
        for (object, standing) in objects.iter().zip(&standing) {
            let is_ours = standing.as_ref().is_none_or(|it| it.is_of(&object.object));
            if is_ours {
                self.make(object, standing.as_ref()).await?;
            }
        }
        let is_wanted = |id: &Id| objects.iter().any(|object| *id == Id::of(object));
        for (id, stale) in known.made_for(gateway).filter(|(id, _)| !is_wanted(id)) {
            self.remove(id, stale).await?;
        }
        Ok(())
    }

    /// What there is under the name of an object, unless it is another's.
    async fn look(&self, object: &Generated, known: &Known) -> Result<Option<Standing>, Obstacle> {
        let id = Id::of(object);
        let mut standing = known.get(&id).cloned();
        if standing.is_none() {
            // What others make is not known by its labels.
            let found = call(id.api(&self.client).get_metadata_opt(&object.name)).await;
            let found = found.map_err(|error| failed("be looked for", object, &error))?;
            standing = found.map(|it| Standing::of(&it.metadata));
        }
        match &standing {
            Some(it) if !it.is_of(&object.object) && !object.may_be_foreign => {
                Err(Obstacle::InTheWay(format!(
                    "{object} is there already and was not made for this Gateway: remove it, or name another with the \
                 annotation gateway.istio.io/name-override"
                )))
            }
            _ => Ok(standing),
        }
    }

    /// Writes an object unless it is right.
    async fn make(&mut self, object: &Generated, standing: Option<&Standing>) -> Result<(), Obstacle> {
        let id = Id::of(object);
        let is_right = |done: &Done| {
            done.object == object.object
                && standing.is_some_and(|it| it.uid == done.uid && it.version == done.version)
        };
        if self.done.get(&id).is_some_and(is_right) || !self.leadership.is_leading() {
            return Ok(());
        }
        let mut wanted = object.object.clone();
        let mut params = PatchParams::apply(MANAGER);
        if let Some(standing) = standing {
            // It must be the one that was looked at; one that is new must be nobody else's by now.
            wanted["metadata"]["uid"] = json!(standing.uid);
            params = params.force();
        }
        let written = call(id.api(&self.client).patch(&object.name, &params, &Patch::Apply(wanted))).await;
        let written = written.map_err(|error| failed("be made", object, &error))?;
        let Standing { uid, version, .. } = Standing::of(&written.metadata);
        if standing.is_none_or(|it| it.version != version) {
            tracing::info!(%object, "Written for a Gateway.");
        }
        self.done.insert(id, Done { object: object.object.clone(), uid, version });
        Ok(())
    }

    async fn remove(&mut self, id: &Id, stale: &Standing) -> Result<(), Obstacle> {
        if !self.leadership.is_leading() {
            return Ok(());
        }
        self.done.remove(id);
        let condition = Preconditions { uid: Some(stale.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(condition), ..DeleteParams::background() };
        match call(id.api(&self.client).delete(&id.name, &params)).await {
            Ok(_) => {
                tracing::info!(object = %id, "Removed, as its Gateway does not ask for it any more.");
                Ok(())
            }
            Err(error) if error.code() == Some(404) => Ok(()),
            Err(error) => Err(Obstacle::Passing(format!("{id} cannot be removed: {error}"))),
        }
    }

    /// Tells what is in the way: in the status as long as it is, in the log and by an event once.
    async fn report(&mut self, gateway: &ObjectKey, objects: &[Generated], obstacle: Option<Obstacle>) {
        let in_the_way = match &obstacle {
            Some(Obstacle::InTheWay(why)) => Some(why.as_str()),
            _ => None,
        };
        // What passes leaves what was said before.
        if in_the_way.is_some() || obstacle.is_none() {
            self.told.obstacle(gateway, in_the_way);
        }
        let Some(Obstacle::InTheWay(why) | Obstacle::Passing(why)) = obstacle else {
            self.complaints.remove(gateway);
            return;
        };
        if self.complaints.get(gateway) == Some(&why) {
            return;
        }
        tracing::warn!(%gateway, error = why, "What runs a Gateway cannot be made.");
        let event = event(gateway, objects, &why);
        let events: Api<Event> = Api::namespaced(self.client.clone(), &gateway.namespace);
        // Whoever cannot be told here is told by the status.
        let _ = call(events.create(&PostParams::default(), &event)).await;
        self.complaints.insert(gateway.clone(), why);
    }
}

impl Told {
    fn obstacle(&self, gateway: &ObjectKey, why: Option<&str>) {
        let mut api = self.gateway_api.lock().unwrap_or_else(PoisonError::into_inner);
        api.set_obstacle(gateway, why);
        for (key, status) in api.settle() {
            self.statuses.set(key, status);
        }
    }
}

/// Those that a plan is about.
fn objects(plan: &Plan) -> &[Generated] {
    match plan {
        Plan::Objects(objects) => objects,
        Plan::Invalid(_) | Plan::Impossible(_) => &[],
    }
}

/// Waits for news, or for good if there will be none.
async fn changed<T>(news: &mut watch::Receiver<T>) {
    if news.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn failed(what: &str, object: &Generated, error: &CallError) -> Obstacle {
    let why = format!("{object} cannot {what}: {error}");
    match error.code() {
        // Somebody else was faster, or the server has too much to do.
        None | Some(409 | 429 | 500..) => Obstacle::Passing(why),
        Some(_) => Obstacle::InTheWay(why),
    }
}

fn event(gateway: &ObjectKey, objects: &[Generated], why: &str) -> Event {
    let text = |it: &str| Some(it.to_owned());
    let uid = objects.first().and_then(|it| it.object.pointer("/metadata/ownerReferences/0/uid")?.as_str());
    let now = Some(Time(Timestamp::now()));
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", gateway.name)),
            namespace: text(&gateway.namespace),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: text("gateway.networking.k8s.io/v1"),
            kind: text("Gateway"),
            namespace: text(&gateway.namespace),
            name: text(&gateway.name),
            uid: uid.and_then(text),
            ..ObjectReference::default()
        },
        type_: text("Warning"),
        reason: text("DeploymentFailed"),
        message: text(why),
        source: Some(EventSource { component: text(MANAGER), ..EventSource::default() }),
        reporting_component: text(MANAGER),
        first_timestamp: now.clone(),
        last_timestamp: now,
        count: Some(1),
        ..Event::default()
    }
}

/// After something went wrong.
const RETRY: Duration = Duration::from_secs(5);
/// Without any news: none of which is missed, but for those that nobody tells.
const LOOK: Duration = Duration::from_secs(300);
/// Between two rounds, so that a flood of news is one.
const GAP: Duration = Duration::from_millis(200);
