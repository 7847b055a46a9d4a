//! The nodes of a mesh: connections of this process, and one process that is a whole node.

use std::{
    io::BufRead as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    Part,
    crowd::node_name,
    part::Process,
    subscriber::{Subscriber, name},
};

/// All nodes.
#[derive(Debug)]
pub(super) struct Fleet {
    runtime: Runtime,
    events: mpsc::Receiver<Event>,
    count: u32,
    /// Bytes that the nodes of this process have received.
    received: Arc<AtomicU64>,
    /// The first, if one of them is a whole one.
    whole: Option<Process>,
    _nodes: JoinSet<()>,
}

/// What a node reports.
#[derive(Debug)]
enum Event {
    /// Everything that exists has been told.
    Synced,
    /// A resource was told after that, with its bytes.
    Told(String, usize),
    Failed(anyhow::Error),
}

impl Fleet {
    /// `count` nodes that follow the control plane at `address`; the first a whole one if `whole`.
    pub(super) fn start(address: SocketAddr, count: u32, whole: bool) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (sender, events) = mpsc::channel(EVENTS);
        let received = Arc::new(AtomicU64::new(0));
        let mut nodes = JoinSet::new();
        for index in u32::from(whole)..count {
            let (sender, received) = (sender.clone(), Arc::clone(&received));
            let node = async move {
                if let Err(error) = simulate(address, &node_name(index), received, &sender).await {
                    // Nobody waits any more when the measurement is over.
                    let _ = sender.send(Event::Failed(error)).await;
                }
            };
            drop(nodes.spawn_on(node, runtime.handle()));
        }
        let whole = whole.then(|| start_whole(address, sender)).transpose()?;
        Ok(Self { runtime, events, count, received, whole, _nodes: nodes })
    }

    /// Waits until all nodes have been told everything.
    pub(super) fn wait_synced(&mut self, within: Duration) -> Result<()> {
        self.wait(within, |event| matches!(event, Event::Synced)).map(drop)
    }

    /// Waits until all nodes have been told of `wanted`, and returns the bytes of the resource.
    pub(super) fn wait_told(&mut self, wanted: &str, within: Duration) -> Result<usize> {
        let mut bytes = 0;
        self.wait(within, |event| match event {
            Event::Told(name, size) if name == wanted => {
                bytes = bytes.max(*size);
                true
            }
            _ => false,
        })?;
        Ok(bytes)
    }

    /// Bytes that a node of this process has received on average.
    pub(super) fn received_each(&self) -> f64 {
        let nodes = self.count - u32::from(self.whole.is_some());
        crate::bench::output::count(self.received.load(Ordering::Relaxed)) / f64::from(nodes.max(1))
    }

    /// The process that is a whole node.
    pub(super) fn whole(&self) -> Option<&Process> {
        self.whole.as_ref()
    }

    fn wait(&mut self, within: Duration, mut counts: impl FnMut(&Event) -> bool) -> Result<()> {
        let (events, count) = (&mut self.events, self.count);
        self.runtime.block_on(async {
            let deadline = Instant::now() + within;
            let mut seen = 0;
            while seen < count {
                let event = timeout_at(deadline, events.recv()).await;
                let event =
                    event.with_context(|| format!("only {seen} of {count} nodes were told in time"))?;
                match event.context("no node is left")? {
                    Event::Failed(error) => return Err(error.context("a node failed")),
                    event => seen += u32::from(counts(&event)),
                }
            }
            Ok(())
        })
    }
}

async fn simulate(
    address: SocketAddr,
    node: &str,
    received: Arc<AtomicU64>,
    events: &mpsc::Sender<Event>,
) -> Result<()> {
    let mut subscriber = Subscriber::open(address, node, received).await?;
    let mut synced = false;
    loop {
        let response = subscriber.next().await?;
        let complete = subscriber.accept(&response).await?;
        // The names of what was there from the start are nobody's question.
        for resource in response.resources.into_iter().filter(|_| synced) {
            let size = resource.len();
            events.send(Event::Told(name(resource)?, size)).await?;
        }
        if complete && !synced {
            synced = true;
            events.send(Event::Synced).await?;
        }
    }
}

fn start_whole(address: SocketAddr, events: mpsc::Sender<Event>) -> Result<Process> {
    let mut process = Process::start(&Part::Node(address, node_name(0)))?;
    let output = process.take_output().context("nobody else has it")?;
    let read = move || -> Result<()> {
        for line in output.lines() {
            let line = line?;
            let event = match line.split_once(' ') {
                None if line == "synced" => Event::Synced,
                Some(("told", name)) => Event::Told(name.to_owned(), 0),
                _ => bail!("a node says {line:?}"),
            };
            if events.blocking_send(event).is_err() {
                return Ok(());
            }
        }
        // Either the measurement is over, or the others wait in vain and say so.
        drop(events.blocking_send(Event::Failed(anyhow::anyhow!("the whole node has ended"))));
        Ok(())
    };
    // Ends with the process.
    drop(thread::spawn(read));
    Ok(process)
}

/// Reports that wait to be read.
const EVENTS: usize = 1024;
