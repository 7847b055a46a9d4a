//! Questions to an external authorizer by Envoy's protocol, and what it says.

use http::{HeaderName, HeaderValue, StatusCode};
use mesh_core::external::{Changes, Denial, How, MAX_CHANGES, Verdict, may_be_set};
use prost::Message as _;

use crate::authz::check_response::HttpResponse;
use crate::authz::header_value_option::Action;
use crate::authz::{self, AttributeContext, CheckRequest, CheckResponse, HeaderValueOption};
use crate::codec::{Excess, measure};

/// A question on the wire.
pub fn question(attributes: AttributeContext) -> Vec<u8> {
    CheckRequest { attributes: Some(attributes) }.encode_to_vec()
}

/// What came back for a question.
///
/// # Errors
/// If it is no such message, or a larger one than anybody needs.
pub fn answer(wire: &[u8]) -> Result<Verdict, Excess> {
    measure::<CheckResponse>(wire)?;
    Ok(verdict(CheckResponse::decode(wire)?))
}

/// Only a status that is there and good says yes, and not with an answer for those who are refused.
fn verdict(response: CheckResponse) -> Verdict {
    let is_good = response.status.as_ref().is_some_and(|status| status.code == 0);
    match response.http_response {
        Some(HttpResponse::OkResponse(ok)) if is_good => {
            let removed = ok.headers_to_remove.iter();
            let removed = removed.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
            Verdict::Allowed(Changes {
                remove: removed.filter(may_be_set).take(MAX_CHANGES).collect(),
                set: headers(&ok.headers).collect(),
                answer: headers(&ok.response_headers_to_add).map(|(name, value, _)| (name, value)).collect(),
            })
        }
        None if is_good => Verdict::Allowed(Changes::default()),
        Some(HttpResponse::DeniedResponse(denied)) => {
            let code = denied.status.and_then(|status| u16::try_from(status.code).ok());
            let status = code.and_then(|code| StatusCode::from_u16(code).ok());
            // One that is none, or says that all is well, would not be a refusal.
            let status = status.filter(|status| !status.is_informational() && !status.is_success());
            Verdict::Denied(Denial {
                status: status.unwrap_or(StatusCode::FORBIDDEN),
                headers: headers(&denied.headers).map(|(name, value, _)| (name, value)).collect(),
                body: denied.body.into_bytes(),
            })
        }
        _ => Verdict::Denied(Denial { status: StatusCode::FORBIDDEN, headers: Vec::new(), body: Vec::new() }),
    }
}

fn headers(given: &[HeaderValueOption]) -> impl Iterator<Item = (HeaderName, HeaderValue, How)> {
    given.iter().take(MAX_CHANGES).filter_map(|option| {
        let header: &authz::HeaderValue = option.header.as_ref()?;
        let name = HeaderName::from_bytes(header.key.as_bytes()).ok().filter(may_be_set)?;
        let raw = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        Some((name, HeaderValue::from_bytes(raw).ok()?, how(option)))
    })
}

/// As Envoy's filter reads it: what says nothing replaces.
fn how(option: &HeaderValueOption) -> How {
    match (&option.append, option.append_action()) {
        (Some(append), _) if append.value => How::Append,
        (None, Action::AddIfAbsent) => How::IfAbsent,
        (None, Action::OverwriteIfExists) => How::IfPresent,
        (Some(_), _) | (None, Action::AppendIfExistsOrAdd | Action::OverwriteIfExistsOrAdd) => How::Replace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::{BoolValue, DeniedHttpResponse, HttpStatus, OkHttpResponse, RpcStatus};

    fn said(code: Option<i32>, response: Option<HttpResponse>) -> Verdict {
        let status = code.map(|code| RpcStatus { code, message: String::new() });
        answer(&CheckResponse { status, http_response: response }.encode_to_vec()).unwrap()
    }

    fn denied(code: i32) -> HttpResponse {
        let status = Some(HttpStatus { code });
        HttpResponse::DeniedResponse(DeniedHttpResponse {
            status,
            headers: Vec::new(),
            body: "no".to_owned(),
        })
    }

    #[test]
    fn only_a_good_status_says_yes() {
        let ok = || Some(HttpResponse::OkResponse(OkHttpResponse::default()));
        let status = |verdict| match verdict {
            Verdict::Allowed(_) => 0,
            Verdict::Denied(denial) => denial.status.as_u16(),
        };
        for (code, response, expected) in [
            (Some(0), ok(), 0),
            (Some(0), None, 0),
            (None, ok(), 403),
            (None, None, 403),
            (Some(7), ok(), 403),
            (Some(7), None, 403),
            (Some(7), Some(denied(401)), 401),
            (Some(7), Some(denied(0)), 403),
            (Some(7), Some(denied(200)), 403),
            (Some(7), Some(denied(100)), 403),
            (Some(7), Some(denied(70_000)), 403),
            (Some(0), Some(denied(401)), 401),
        ] {
            assert_eq!(status(said(code, response)), expected, "{code:?}");
        }
        assert!(answer(b"\xff\xff\xff").is_err());
    }

    #[test]
    fn headers_are_read_with_what_is_to_be_done_with_them() {
        let option = |key: &str, append: Option<bool>, action: Action| HeaderValueOption {
            header: Some(authz::HeaderValue {
                key: key.to_owned(),
                value: "v".to_owned(),
                ..Default::default()
            }),
            append: append.map(|value| BoolValue { value }),
            append_action: action.into(),
        };
        let any = Action::AppendIfExistsOrAdd;
        let ok = OkHttpResponse {
            headers: vec![
                option("a", None, any),
                option("b", Some(true), any),
                option("c", Some(false), any),
                option("d", None, Action::AddIfAbsent),
                option("e", None, Action::OverwriteIfExists),
                option("Content-Length", None, any),
                option("bad name", None, any),
            ],
            headers_to_remove: vec!["x".to_owned(), "host".to_owned(), "bad name".to_owned()],
            response_headers_to_add: vec![option("set-cookie", Some(true), any)],
        };
        let Verdict::Allowed(changes) = said(Some(0), Some(HttpResponse::OkResponse(ok))) else {
            panic!("yes")
        };
        let set: Vec<_> = changes.set.iter().map(|(name, _, how)| (name.as_str(), *how)).collect();
        let expected = [
            ("a", How::Replace),
            ("b", How::Append),
            ("c", How::Replace),
            ("d", How::IfAbsent),
            ("e", How::IfPresent),
        ];
        assert_eq!(set, expected);
        assert_eq!((changes.remove.len(), changes.answer.len()), (1, 1));
    }
}
