//! Formats from text: `%OPERATOR%`, `%OPERATOR(arguments)%`, `%OPERATOR(arguments):most%`, `%%`.

use serde_json::Value as Json;

use super::operator::{AddressPart, Bound, Endpoint, Header, Operator, Side};
use super::{AccessFormat, FormatError, Piece, Style};
use crate::tls::leaf::Part;

/// A format of text.
pub(super) fn text(format: &str) -> Result<AccessFormat, FormatError> {
    let mut builder = Builder::default();
    builder.template(format, str::to_owned)?;
    Ok(builder.finish())
}

/// A format that is a JSON object.
pub(super) fn json(format: &str) -> Result<AccessFormat, FormatError> {
    let object = serde_json::from_str(format).map_err(|_| FormatError::NotAnObject)?;
    let object @ Json::Object(_) = object else { return Err(FormatError::NotAnObject) };
    let mut builder = Builder::default();
    builder.json(&object)?;
    Ok(builder.finish())
}

/// A format of JSON whose fields have an order.
pub(super) fn fields(fields: &[(&str, &str)]) -> Result<AccessFormat, FormatError> {
    let mut builder = Builder::default();
    let fields = fields.iter().map(|(key, value)| (*key, Json::from(*value)));
    builder.members(fields)?;
    Ok(builder.finish())
}

#[derive(Default)]
struct Builder {
    pieces: Vec<Piece>,
    unknown: Vec<String>,
    /// What will stand before the next operator.
    text: String,
}

impl Builder {
    fn finish(mut self) -> AccessFormat {
        if !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        AccessFormat { pieces: self.pieces, unknown: self.unknown, tail: self.text.into() }
    }

    fn operator(&mut self, operator: Operator, style: Style) {
        if let Operator::Unknown(text) = &operator {
            self.unknown.push(text.to_string());
        }
        self.pieces.push(Piece { before: std::mem::take(&mut self.text).into(), operator, style });
    }

    /// Text with operators in it; what is not an operator is added as `literal` makes it.
    fn template(&mut self, mut rest: &str, literal: impl Fn(&str) -> String) -> Result<(), FormatError> {
        while let Some((before, after)) = rest.split_once('%') {
            self.text.push_str(&literal(before));
            if let Some(after) = after.strip_prefix('%') {
                self.text.push('%');
                rest = after;
            } else {
                let (operator, after) = operator(after)?;
                self.operator(operator, Style::Inside);
                rest = after;
            }
        }
        self.text.push_str(&literal(rest));
        Ok(())
    }

    fn json(&mut self, value: &Json) -> Result<(), FormatError> {
        match value {
            Json::String(text) => self.string(text),
            Json::Object(members) => self.members(members.iter().map(|(key, value)| (key.as_str(), value))),
            Json::Array(items) => self.list('[', ']', items, Self::json),
            Json::Null | Json::Bool(_) | Json::Number(_) => {
                self.text.push_str(&value.to_string());
                Ok(())
            }
        }
    }

    fn members<'a, V: std::borrow::Borrow<Json>>(
        &mut self,
        members: impl IntoIterator<Item = (&'a str, V)>,
    ) -> Result<(), FormatError> {
        self.list('{', '}', members, |builder, (key, value)| {
            builder.text.extend(["\"", &quoted(key), "\":"]);
            builder.json(value.borrow())
        })
    }

    fn list<I>(
        &mut self,
        open: char,
        close: char,
        items: impl IntoIterator<Item = I>,
        add: impl Fn(&mut Self, I) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        self.text.push(open);
        for (place, item) in items.into_iter().enumerate() {
            self.text.push_str(if place == 0 { "" } else { "," });
            add(self, item)?;
        }
        self.text.push(close);
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), FormatError> {
        let alone = text.strip_prefix('%').filter(|after| !after.starts_with('%'));
        if let Some((operator, "")) = alone.map(operator).transpose()? {
            self.operator(operator, Style::Value);
            return Ok(());
        }
        self.text.push('"');
        self.template(text, quoted)?;
        self.text.push('"');
        Ok(())
    }
}

/// The inside of a JSON string.
fn quoted(text: &str) -> String {
    let quoted = Json::from(text).to_string();
    quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
}

/// An operator whose first `%` has been taken off, and what follows its last one.
fn operator(text: &str) -> Result<(Operator, &str), FormatError> {
    let not_one = || FormatError::NotAnOperator(text.chars().take(SHOWN).collect());
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let name_len = text.find(|c| !is_name(c)).filter(|len| *len > 0).ok_or_else(not_one)?;
    let (name, mut rest) = text.split_at(name_len);
    let mut arguments = None;
    if let Some(after) = rest.strip_prefix('(') {
        let (inside, after) = after.split_once(')').ok_or_else(not_one)?;
        (arguments, rest) = (Some(inside), after);
    }
    let (most, rest) = rest.split_once('%').ok_or_else(not_one)?;
    let whole = || text.strip_suffix(rest).unwrap_or(text).trim_end_matches('%').to_owned();
    let most = match most.strip_prefix(':') {
        None if most.is_empty() => None,
        None => return Err(not_one()),
        Some(most) => Some(most.parse().map_err(|_| FormatError::Arguments(whole()))?),
    };
    let operator = match (arguments, most) {
        (None, None) => plain(name),
        (Some(arguments), most) => with_argument(name, arguments)
            .filter(|_| most.is_none())
            .or_else(|| with_headers(name, arguments, most.unwrap_or(usize::MAX))),
        (None, Some(_)) => None,
    };
    match operator {
        Some(operator) => Ok((operator, rest)),
        None if plain(name).is_some() || HEADERS.contains(&name) => Err(FormatError::Arguments(whole())),
        // One that asks for more than there is costs its own value, not the whole line.
        None => Ok((Operator::Unknown(whole().into()), rest)),
    }
}

fn plain(name: &str) -> Option<Operator> {
    Some(match name {
        "START_TIME" => Operator::StartTime,
        "PROTOCOL" => Operator::Protocol,
        "RESPONSE_CODE" => Operator::Code,
        "RESPONSE_FLAGS" => Operator::Flags,
        "RESPONSE_CODE_DETAILS" => Operator::Details,
        "CONNECTION_TERMINATION_DETAILS" => Operator::TerminationDetails,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::UpstreamFailure,
        "BYTES_RECEIVED" => Operator::BytesReceived,
        "BYTES_SENT" => Operator::BytesSent,
        "DURATION" => Operator::Duration,
        "RESPONSE_DURATION" => Operator::ResponseDuration,
        "RESPONSE_TX_DURATION" => Operator::ResponseSendDuration,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::Attempts,
        "HOSTNAME" => Operator::HostName,
        "TRACE_ID" => Operator::TraceId,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::Cluster,
        "REQUESTED_SERVER_NAME" => Operator::ServerName,
        "ROUTE_NAME" => Operator::RouteName,
        "GRPC_STATUS" => Operator::GrpcStatus,
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatusNumber,
        "DOWNSTREAM_PEER_URI_SAN" => Operator::SourceIdentity,
        "UPSTREAM_PEER_URI_SAN" => Operator::DestinationIdentity,
        "UPSTREAM_LOCAL_URI_SAN" => Operator::SenderIdentity,
        "DOWNSTREAM_LOCAL_URI_SAN" => Operator::OwnIdentity,
        "DOWNSTREAM_TLS_VERSION" => Operator::TlsVersion(Side::Client),
        "DOWNSTREAM_TLS_CIPHER" => Operator::Cipher(Side::Client),
        "UPSTREAM_TLS_VERSION" => Operator::TlsVersion(Side::Server),
        "UPSTREAM_TLS_CIPHER" => Operator::Cipher(Side::Server),
        _ => return validity(name, None).or_else(|| certificate(name)).or_else(|| address(name)),
    })
}

/// What the client's certificate says.
fn certificate(name: &str) -> Option<Operator> {
    Some(Operator::Certificate(match name {
        "DOWNSTREAM_PEER_DNS_SAN" => Part::Dns,
        "DOWNSTREAM_PEER_SUBJECT" => Part::Subject,
        "DOWNSTREAM_PEER_ISSUER" => Part::Issuer,
        "DOWNSTREAM_PEER_SERIAL" => Part::Serial,
        "DOWNSTREAM_PEER_FINGERPRINT_256" => Part::Sha256,
        _ => return None,
    }))
}

/// When the client's certificate is good.
fn validity(name: &str, format: Option<&str>) -> Option<Operator> {
    let bound = match name {
        "DOWNSTREAM_PEER_CERT_V_START" => Bound::Start,
        "DOWNSTREAM_PEER_CERT_V_END" => Bound::End,
        _ => return None,
    };
    Some(Operator::Validity(bound, format.map(Box::from)))
}

fn address(name: &str) -> Option<Operator> {
    let (endpoint, part) = match name {
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => (Endpoint::UpstreamHost, AddressPart::Whole),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => (Endpoint::UpstreamHost, AddressPart::Ip),
        "UPSTREAM_REMOTE_PORT" => (Endpoint::UpstreamHost, AddressPart::Port),
        "UPSTREAM_LOCAL_ADDRESS" => (Endpoint::UpstreamLocal, AddressPart::Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => (Endpoint::UpstreamLocal, AddressPart::Ip),
        "UPSTREAM_LOCAL_PORT" => (Endpoint::UpstreamLocal, AddressPart::Port),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => (Endpoint::DownstreamDirect, AddressPart::Whole),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => (Endpoint::DownstreamDirect, AddressPart::Ip),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => (Endpoint::DownstreamDirect, AddressPart::Port),
        "DOWNSTREAM_LOCAL_ADDRESS" => (Endpoint::DownstreamLocal, AddressPart::Whole),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => (Endpoint::DownstreamLocal, AddressPart::Ip),
        "DOWNSTREAM_LOCAL_PORT" => (Endpoint::DownstreamLocal, AddressPart::Port),
        "DOWNSTREAM_REMOTE_ADDRESS" => (Endpoint::DownstreamRemote, AddressPart::Whole),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => (Endpoint::DownstreamRemote, AddressPart::Ip),
        "DOWNSTREAM_REMOTE_PORT" => (Endpoint::DownstreamRemote, AddressPart::Port),
        _ => return None,
    };
    Some(Operator::Address(endpoint, part))
}

/// Operators that say how their value is written.
fn with_argument(name: &str, argument: &str) -> Option<Operator> {
    Some(match (name, argument) {
        ("START_TIME", format) => Operator::StartTimeAs(format.into()),
        ("GRPC_STATUS", "CAMEL_STRING") => Operator::GrpcStatus,
        ("GRPC_STATUS", "NUMBER") => Operator::GrpcStatusNumber,
        (name, format) => return validity(name, Some(format)),
    })
}

/// Operators that name one header, or two of which the second stands in for the first.
fn with_headers(name: &str, arguments: &str, most: usize) -> Option<Operator> {
    let (first, second) =
        arguments.split_once('?').map_or((arguments, None), |(first, second)| (first, Some(second)));
    let header: fn(&str) -> Header = match name {
        "REQ" | "REQ_WITHOUT_QUERY" => request_header,
        "RESP" => response_header,
        "TRAILER" => |name: &str| Header::Trailer(name.to_ascii_lowercase().into()),
        _ => return None,
    };
    if first.is_empty() || second.is_some_and(str::is_empty) {
        return None;
    }
    let query = name != "REQ_WITHOUT_QUERY";
    Some(Operator::Header { header: header(first), or: second.map(header), query, most })
}

fn request_header(name: &str) -> Header {
    let name = name.to_ascii_lowercase();
    match &*name {
        ":method" => Header::Method,
        ":path" => Header::Path,
        "x-envoy-original-path" => Header::OriginalPath,
        ":authority" | "host" => Header::Authority,
        "x-forwarded-for" => Header::ForwardedFor,
        "user-agent" => Header::UserAgent,
        "x-request-id" => Header::RequestId,
        _ => Header::Request(name.into()),
    }
}

fn response_header(name: &str) -> Header {
    let name = name.to_ascii_lowercase();
    match &*name {
        "x-envoy-upstream-service-time" => Header::UpstreamServiceTime,
        _ => Header::Response(name.into()),
    }
}

/// Operators that name headers.
const HEADERS: [&str; 4] = ["REQ", "REQ_WITHOUT_QUERY", "RESP", "TRAILER"];
/// Characters shown of a text that is no operator.
const SHOWN: usize = 20;
