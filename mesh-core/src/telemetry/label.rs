//! Names of labels that users give to metrics.

/// Why a name cannot be that of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLabel {
    /// There is none.
    #[error("a tag must have a name")]
    Empty,
    /// Prometheus has a use of its own for it: whoever scrapes a metric that has it twice loses all metrics of the process.
    #[error("Prometheus keeps the name {0} for itself, and would read no metric of the proxy")]
    Reserved(&'static str),
}

/// The name of a label as Prometheus takes it, of that of a tag as users write it: what may not be in one becomes `_`.
///
/// # Errors
/// If metrics cannot have such a label: `le` and `quantile` are the limits of histograms and summaries, and names that begin
/// with `__` are Prometheus' own (its data model, "Metric names and labels").
pub fn label_name(tag: &str) -> Result<String, BadLabel> {
    if tag.is_empty() {
        return Err(BadLabel::Empty);
    }
    let fits = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut label: String = tag.chars().map(fits).collect();
    if label.starts_with(|c: char| c.is_ascii_digit()) {
        label.insert(0, '_');
    }
    match &*label {
        "le" => Err(BadLabel::Reserved("le")),
        "quantile" => Err(BadLabel::Reserved("quantile")),
        it if it.starts_with("__") => Err(BadLabel::Reserved("__*")),
        _ => Ok(label),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_prometheus_takes_or_none() {
        for (tag, expected) in [
            ("host", Ok("host")),
            ("bad.name", Ok("bad_name")),
            ("4th", Ok("_4th")),
            ("_own", Ok("_own")),
            ("Le", Ok("Le")),
            ("le", Err(BadLabel::Reserved("le"))),
            ("quantile", Err(BadLabel::Reserved("quantile"))),
            ("__name__", Err(BadLabel::Reserved("__*"))),
            ("-.x", Err(BadLabel::Reserved("__*"))),
            ("", Err(BadLabel::Empty)),
        ] {
            assert_eq!(label_name(tag), expected.map(str::to_owned), "{tag}");
        }
    }
}
