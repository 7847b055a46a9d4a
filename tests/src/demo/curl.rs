//! One request by `curl` and what it said.

use std::process::Output;

/// What `curl` reported of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fetched {
    /// The status code; `None` where no answer came.
    pub(super) status: Option<u16>,
    /// The body.
    pub(super) body: String,
    /// What `curl` complained of, without its name's repetition.
    pub(super) complaint: String,
}

impl Fetched {
    /// Reads the output of `curl` with [`OPTIONS`].
    pub(super) fn read(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
        let status = status.parse().ok().filter(|status| *status != 0 && output.status.success());
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint = complaint.lines().last().unwrap_or_default().trim().to_owned();
        Self { status, body: body.to_owned(), complaint }
    }

    /// Whether the answer was 200.
    pub(super) fn good(&self) -> bool {
        self.status == Some(200)
    }

    /// Whether no answer came at all: the connection was refused, cut or silent.
    pub(super) fn refused(&self) -> bool {
        self.status.is_none()
    }

    /// The outcome in a few words.
    pub(super) fn outcome(&self) -> String {
        match self.status {
            Some(status) => format!("{status}, {} bytes", self.body.len()),
            None if self.complaint.is_empty() => "no answer".to_owned(),
            None => format!("no answer; {}", self.complaint),
        }
    }

    /// The page's title.
    pub(super) fn title(&self) -> &str {
        between(&self.body, "<title>", "</title>")
    }

    /// The pod that has written the reviews of the page.
    pub(super) fn reviewer_pod(&self) -> &str {
        between(&self.body, "served by: <u>", "</u>")
    }

    /// The colour of the page's stars; `none` where it has none, `unavailable` where they could not be had.
    pub(super) fn stars(&self) -> &str {
        if self.body.contains("Ratings service is currently unavailable") {
            return "unavailable";
        }
        match between(&self.body, "class=\"stars ", "\"") {
            "" => "none",
            colour => colour,
        }
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split_once(before).map_or("", |(_, rest)| rest);
    rest.split_once(after).map_or("", |(found, _)| found).trim()
}

/// Quiet but for errors, and the status code on a line of its own at the end.
pub(super) const OPTIONS: [&str; 4] = ["-sS", "--write-out", "\n%{http_code}", "--max-time"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn output(code: i32, out: &str, err: &str) -> Fetched {
        let status = ExitStatus::from_raw(code << 8);
        Fetched::read(&Output { status, stdout: out.into(), stderr: err.into() })
    }

    #[test]
    fn answers() {
        let page = "<title>Simple Bookstore App</title>\n<p class=\"stars red\" title>★</p>\nserved by: <u>reviews-v3-x</u>\n";
        let fetched = output(0, &format!("{page}\n200"), "");
        assert!(fetched.good() && !fetched.refused());
        assert_eq!(fetched.title(), "Simple Bookstore App");
        assert_eq!((fetched.stars(), fetched.reviewer_pod()), ("red", "reviews-v3-x"));
        assert_eq!(output(0, "no stars\n200", "").stars(), "none");
        assert_eq!(output(0, "Ratings service is currently unavailable\n200", "").stars(), "unavailable");
        assert_eq!(output(0, "oops\n503", "").status, Some(503));
    }

    #[test]
    fn refusals() {
        let reset = output(56, "\n000", "curl: (56) Recv failure: Connection reset by peer\n");
        assert!(reset.refused());
        assert_eq!(reset.outcome(), "no answer; curl: (56) Recv failure: Connection reset by peer");
        // An answer that was cut is no answer.
        assert!(output(18, "half\n200", "curl: (18) transfer closed").refused());
    }
}
