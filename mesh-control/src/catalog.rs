//! The resources themselves, for whoever looks at all of them together: the analysis, and lists of policies.
//!
//! Invariants: Secrets are not among them; there are at most [`MAX_OBJECTS`], beyond which an analysis says nothing rather
//! than something wrong. Beyond that each WorkloadGroup and WorkloadEntry is there all the same: they decide about who may be
//! which machine. An analysis is made when somebody asks for one, and again only after something has changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::analyze::{self, Message, Options};
use mesh_core::resource::{Finding, Object, ObjectKey, Parsed, Spec};

/// What a source has told last of every object.
#[derive(Debug, Default)]
pub struct Catalog {
    content: Mutex<Content>,
    analysis: Mutex<Option<(u64, Arc<Analysis>)>>,
}

/// What is wrong with the resources.
#[derive(Debug, Default)]
pub struct Analysis {
    /// The worst first of each object.
    pub messages: Vec<Message>,
    /// There are too many objects to be looked at together.
    pub is_incomplete: bool,
}

#[derive(Debug, Default)]
struct Content {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    /// How many of them count.
    counted: usize,
    findings: Vec<Finding>,
    /// Objects that there was no room for.
    left_out: bool,
    /// Moves with every change.
    version: u64,
}

impl Catalog {
    /// Takes in an object, in place of the one that had its key; whether there was one.
    pub fn put(&self, object: Arc<Object>) -> bool {
        if matches!(object.spec, Spec::Secret(_)) {
            return false;
        }
        let mut content = self.content();
        let key = object.key();
        let counts = !is_of_machines(&object);
        let is_full = content.counted >= MAX_OBJECTS && counts;
        if is_full && !content.objects.contains_key(&key) {
            content.left_out = true;
            return false;
        }
        content.version += 1;
        let was_there = content.objects.insert(key, object).is_some();
        if !was_there && counts {
            content.counted += 1;
        }
        was_there
    }

    /// Forgets an object.
    pub fn remove(&self, key: &ObjectKey) {
        let mut content = self.content();
        if let Some(object) = content.objects.remove(key) {
            content.version += 1;
            content.counted -= usize::from(!is_of_machines(&object));
        }
    }

    /// Whether there was room for all.
    pub fn is_complete(&self) -> bool {
        !self.content().left_out
    }

    /// Takes over what parsing and compiling have to say now.
    pub fn say(&self, findings: Vec<Finding>) {
        let mut content = self.content();
        content.version += 1;
        content.findings = findings;
    }

    /// The object with this key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.content().objects.get(key).cloned()
    }

    /// Moves with every change.
    pub fn version(&self) -> u64 {
        self.content().version
    }

    /// The objects that `wanted` is true for, by key.
    pub fn objects(&self, wanted: impl Fn(&Object) -> bool) -> Vec<Arc<Object>> {
        self.content().objects.values().filter(|object| wanted(object)).cloned().collect()
    }

    /// What is wrong with the resources. Takes time in proportion to how many there are, if anything has changed.
    pub fn analysis(&self, root_namespace: &str) -> Arc<Analysis> {
        // Held meanwhile: who asks for the same waits for it.
        let mut last = self.analysis.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, parsed, left_out) = {
            let content = self.content();
            if let Some((_, analysis)) = last.as_ref().filter(|(version, _)| *version == content.version) {
                return Arc::clone(analysis);
            }
            let objects = content.objects.values();
            let objects =
                if content.left_out { Vec::new() } else { objects.map(|it| Object::clone(it)).collect() };
            let parsed = Parsed { objects, findings: content.findings.clone(), ..Parsed::default() };
            (content.version, parsed, content.left_out)
        };
        let options = Options { root_namespace: root_namespace.to_owned(), ..Options::default() };
        let messages = analyze::analyze(&parsed, &options);
        let analysis = Arc::new(Analysis { messages, is_incomplete: left_out });
        *last = Some((version, Arc::clone(&analysis)));
        analysis
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of_machines(object: &Object) -> bool {
    matches!(object.spec, Spec::WorkloadGroup(_) | Spec::WorkloadEntry(_))
}

/// Some hundred megabytes of pods, and an analysis of some tenths of a second.
pub const MAX_OBJECTS: usize = 50_000;

#[cfg(test)]
mod tests {
    use mesh_core::resource::{SourceFile, parse};

    use super::*;

    fn objects(text: &str) -> Vec<Arc<Object>> {
        parse(&SourceFile { name: "test.yaml", text }).objects.into_iter().map(Arc::new).collect()
    }

    #[test]
    fn an_analysis_follows_the_resources() {
        let catalog = Catalog::default();
        let text = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a, namespace: n}, \
                    spec: {hosts: [gone], http: [{route: [{destination: {host: gone}}]}]}}";
        let all = objects(text);
        all.iter().cloned().for_each(|object| _ = catalog.put(object));
        let first = catalog.analysis("istio-system");
        assert!(first.messages.iter().any(|message| message.code.to_string() == "IST0101"), "{first:?}");
        assert!(Arc::ptr_eq(&first, &catalog.analysis("istio-system")), "nothing has changed");
        catalog.remove(&all[0].key());
        assert!(catalog.analysis("istio-system").messages.is_empty());
    }

    #[test]
    fn what_says_who_is_which_machine_is_never_left_out() {
        let catalog = Catalog::default();
        let one =
            objects("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: n}}").remove(0);
        for number in 0..=MAX_OBJECTS {
            let mut object = Object::clone(&one);
            object.meta.name = number.to_string().into();
            catalog.put(Arc::new(object));
        }
        assert!(!catalog.is_complete() && catalog.objects(|_| true).len() == MAX_OBJECTS);
        let entry = "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: n}, \
                     spec: {address: 10.0.0.1, serviceAccount: db}}";
        let entry = objects(entry).remove(0);
        catalog.put(Arc::clone(&entry));
        assert!(catalog.get(&entry.key()).is_some());
        catalog.remove(&entry.key());
        catalog.put(
            objects("{apiVersion: v1, kind: ServiceAccount, metadata: {name: b, namespace: n}}").remove(0),
        );
        assert_eq!(catalog.objects(|_| true).len(), MAX_OBJECTS, "its place was none");
    }

    #[test]
    fn secrets_are_not_kept() {
        let catalog = Catalog::default();
        let text = "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: n}, type: kubernetes.io/tls, \
                    data: {tls.crt: YQ==, tls.key: YQ==}}";
        let all = objects(text);
        assert_eq!(all.len(), 1);
        all.into_iter().for_each(|object| _ = catalog.put(object));
        assert!(catalog.objects(|_| true).is_empty());
    }
}
