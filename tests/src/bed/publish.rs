//! What the controller tells others after each step: nodes (objects), pods (hosts files), the kernel (service
//! tables), people and tests (the status).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::controller::{BedNode, Controller, Record, Stage};
use super::error::{Doing, Result};
use super::hosts;
use super::ip;
use super::layout::{Layout, netns_path};
use super::manifests::Key;
use super::network::NodeNet;
use super::objects::{self, PodView};
use super::pod::{Health, Sandbox};
use super::proxy;
use super::services::{self, Candidate, ServiceView};
use super::status::{NodeStatus, PodStatus, ServiceStatus, Status};

impl Controller {
    /// Makes sandboxes, then tells everybody: objects, hosts files, service tables, status.
    pub(super) fn publish(&mut self) -> Result<()> {
        let healths: BTreeMap<Key, Health> =
            self.pods.iter().map(|(key, r)| (key.clone(), r.health())).collect();
        let services = self.service_views(&healths);
        self.write_hosts(&services)?;
        let views: Vec<PodView<'_>> = self
            .pods
            .values()
            .filter(|record| !matches!(record.stage, Stage::Bare(_)))
            .filter_map(|record| {
                let health = healths.get(&record.facts.key)?;
                let (created, terminating) = (record.created, record.terminating);
                Some(PodView { facts: &record.facts, health, created, terminating })
            })
            .collect();
        let nodes: Vec<NodeNet> = self.setting.nodes.iter().map(|n| n.net.clone()).collect();
        let files = objects::render(&self.input, &self.objects, &nodes, &views, &services);
        self.publisher.publish(files)?;
        for node in &nodes {
            let tables = [false, true].map(|v6| proxy::tables(&services, &node.name, v6));
            let tables: (String, String) = tables.into();
            if self.tables.get(&node.netns) != Some(&tables) {
                ip::restore_tables(&node.netns, &tables.0, &tables.1)?;
                self.tables.insert(node.netns.clone(), tables);
            }
        }
        self.report(&healths, &services)
    }

    fn service_views(&self, healths: &BTreeMap<Key, Health>) -> Vec<ServiceView> {
        let candidates: Vec<Candidate<'_>> = self
            .pods
            .iter()
            .filter(|(key, _)| healths.get(key).is_some_and(|h| matches!(h.phase, "Running" | "Pending")))
            .map(|(key, record)| Candidate {
                key,
                manifest: &record.facts.manifest,
                ips: &record.facts.ips,
                node: &record.facts.node,
                uid: &record.facts.uid,
                ready: healths.get(key).is_some_and(|h| h.ready),
                terminating: record.terminating.is_some(),
            })
            .collect();
        services::view(&self.objects, &self.services, &candidates)
    }

    /// Brings the hosts files up to date; new pods get their sandbox with it.
    fn write_hosts(&mut self, services: &[ServiceView]) -> Result<()> {
        for record in self.pods.values_mut() {
            let Key { namespace, name } = &record.facts.key;
            let text = hosts::hosts(name, namespace, &record.facts.ips, services);
            match &record.stage {
                Stage::Running(running) if record.hosts != text && record.terminating.is_none() => {
                    running.write_hosts(&text)?;
                }
                Stage::Bare(_) if record.terminating.is_none() => {
                    let resolver = hosts::resolv_conf(namespace);
                    record.stage = match Sandbox::start(record.facts.clone(), &text, &resolver) {
                        Ok(sandbox) => Stage::Prepared(Box::new(sandbox)),
                        Err(e) => Stage::Bare(Some(e.to_string())),
                    };
                }
                _ => {}
            }
            record.hosts = text;
        }
        Ok(())
    }

    fn report(&self, healths: &BTreeMap<Key, Health>, services: &[ServiceView]) -> Result<()> {
        let mut pods: Vec<PodStatus> =
            self.pods.values().filter_map(|r| Some(pod_status(r, healths.get(&r.facts.key)?))).collect();
        pods.extend(self.unplaced.iter().map(|(key, reason)| unplaced_status(key, reason)));
        pods.sort_by_key(PodStatus::full_name);
        let nodes: Vec<NodeStatus> =
            self.setting.nodes.iter().map(|node| node_status(node, &self.setting.layout)).collect();
        let wanted: BTreeSet<&Key> = self.wanted.iter().map(|d| &d.key).collect();
        let all_there = wanted.iter().all(|key| self.pods.contains_key(key));
        let mut problems = self.input.problems();
        problems.extend(self.trouble.clone());
        let service = |s: &ServiceView| ServiceStatus {
            namespace: s.key.namespace.clone(),
            name: s.key.name.clone(),
            ips: s.vips.clone(),
        };
        let status = Status {
            name: self.setting.layout.name.to_string(),
            state_directory: self.setting.layout.state.clone(),
            wire: netns_path(&self.setting.wire),
            network: self.setting.network,
            ready: all_there && pods.iter().all(PodStatus::settled) && nodes.iter().all(|n| n.ready),
            nodes,
            pods,
            services: services.iter().map(service).collect(),
            problems,
            dashboard: self.setting.shared.read().dashboard,
        };
        let path = self.setting.layout.state.join(STATUS_FILE);
        let text = serde_json::to_vec_pretty(&status).map_err(std::io::Error::from).at("write", &path)?;
        if self.setting.shared.replace(status) {
            let prepared = path.with_extension("new");
            fs::write(&prepared, text).at("write", &prepared)?;
            fs::rename(&prepared, &path).at("write", &path)?;
        }
        Ok(())
    }
}

fn pod_status(record: &Record, health: &Health) -> PodStatus {
    let facts = &record.facts;
    let place = match &record.stage {
        Stage::Running(running) => Some(running.place.clone()),
        Stage::Prepared(sandbox) => Some(sandbox.place.clone()),
        Stage::Bare(_) => None,
    };
    let phase = if record.terminating.is_some() { "Terminating" } else { health.phase };
    PodStatus {
        namespace: facts.key.namespace.clone(),
        name: facts.key.name.clone(),
        node: facts.node.clone(),
        ip: facts.ips.first().copied(),
        ips: facts.ips.clone(),
        uid: facts.uid.clone(),
        place,
        phase: phase.to_owned(),
        ready: health.ready && record.terminating.is_none(),
        message: health.message.clone(),
        restarts: health.containers.iter().map(|c| c.restarts).sum(),
        logs: health.containers.iter().map(|c| c.log.clone()).collect(),
    }
}

fn unplaced_status(key: &Key, reason: &str) -> PodStatus {
    PodStatus {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        node: String::new(),
        ip: None,
        ips: Vec::new(),
        uid: String::new(),
        place: None,
        phase: "Pending".to_owned(),
        ready: false,
        message: Some(reason.to_owned()),
        restarts: 0,
        logs: Vec::new(),
    }
}

/// A node as it is now.
pub(crate) fn node_status(node: &BedNode, layout: &Layout) -> NodeStatus {
    let health = node.agent.as_ref().map(|agent| agent.health());
    NodeStatus {
        name: node.net.name.clone(),
        netns: netns_path(&node.net.netns),
        cgroup: layout.node_cgroup(&node.net.name),
        ips: node.net.address.both().to_vec(),
        pid: health.as_ref().and_then(|h| h.pid),
        admin: node.admin.clone(),
        log: node.agent.as_ref().map(|agent| agent.log().to_owned()),
        ready: health.as_ref().is_none_or(|h| h.ready),
        restarts: health.as_ref().map_or(0, |h| h.restarts),
        failed: health.and_then(|h| h.failed),
    }
}

/// The status for other processes.
pub(crate) const STATUS_FILE: &str = "status.json";
