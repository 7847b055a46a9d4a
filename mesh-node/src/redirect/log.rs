//! Messages of the kernel programs, passed on to the node's own log under the target `ebpf`.

use aya::Ebpf;
use aya_log::EbpfLogger;

/// The reading end of the kernel programs' messages.
pub struct KernelLog(EbpfLogger<ToTracing>);

impl KernelLog {
    /// Takes the message ring of a loaded object; it can be taken once.
    pub fn of(ebpf: &mut Ebpf) -> Result<Self, aya_log::Error> {
        EbpfLogger::init_with_logger(ebpf, ToTracing).map(Self)
    }

    /// Passes messages on for ever. What is said at all is decided by the level in the node's map entry. The ring is
    /// looked at a few times a second: its descriptor cannot be registered with the runtime without `unsafe`.
    pub async fn pump(mut self) {
        loop {
            self.0.flush();
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Forwards records to `tracing`.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        match record.level() {
            log::Level::Error | log::Level::Warn => tracing::warn!(target: "ebpf", "{}", record.args()),
            // The level is chosen in the kernel; filtering debug here again would hide what was asked for.
            _ => tracing::info!(target: "ebpf", "{}", record.args()),
        }
    }

    fn flush(&self) {}
}

/// Short enough for a person at a terminal; the ring holds far more than is said in it.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(250);
