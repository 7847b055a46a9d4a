//! What a request tells its origin to do: `status=503; delay=200`.
//!
//! `status`, `delay` (milliseconds before the head), `pause` (before the body), `header=name:value` and `trailer=` (any
//! number), `body`, `size` (bytes of the pattern), `chunked`, `close`, `interim=103`, `grpc=14`, `early` (answers
//! without having read the body), `reset` (ends the connection without an answer), `partial` (ends it in the middle of
//! one), `raw` (base64 of what is answered instead), `fail=N`, `only=POD`.

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders(Vec<(String, String)>);

impl Orders {
    pub(super) fn parse(text: &str) -> Self {
        let orders = text.split(';').map(str::trim).filter(|order| !order.is_empty());
        let pairs = orders.map(|order| order.split_once('=').unwrap_or((order, "")));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn number(&self, key: &str) -> Option<usize> {
        self.get(key)?.parse().ok()
    }

    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(own, _)| own == key).map(|(_, value)| value.as_str())
    }

    /// `name:value` of all orders of that key.
    pub(super) fn fields(&self, key: &str) -> impl Iterator<Item = (&str, &str)> {
        self.all(key).filter_map(|field| field.split_once(':'))
    }

    pub(super) fn status(&self) -> u16 {
        self.number("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(200)
    }

    pub(super) async fn wait(&self, key: &str) {
        if let Some(millis) = self.number(key).and_then(|it| u64::try_from(it).ok()) {
            tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
        }
    }
}
