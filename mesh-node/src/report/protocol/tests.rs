use super::*;
use crate::report::tests::{info, reporter, sample, scrape, service};
use crate::report::{AccessLogFormat, Direction};

/// A message of `MongoDB` that is a command: its length, three numbers, flags, a section, a document with this key.
fn command(key: &str) -> Vec<u8> {
    let document = [&[0x10][..], key.as_bytes(), &[0, 1, 0, 0, 0, 0]].concat();
    let of_document = u32::try_from(document.len() + 4).unwrap();
    let length = 16 + 4 + 1 + of_document;
    let words = [length, 1, 0, 2013, 0].map(u32::to_le_bytes).concat();
    [&words[..], &[0], &of_document.to_le_bytes(), &document].concat()
}

#[test]
fn connections_and_bytes_are_counted_by_the_name_of_the_protocol() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let report = reporter.begin(info(Direction::Outbound));
    let speaking = report.speaks(Named::Redis);
    speaking.read(Side::App, b"PING\r\n");
    speaking.read(Side::Far, b"+PONG\r\n");
    let labels = ["protocol=\"redis\"", "reporter=\"source\"", "destination_service_name=\"server\""];
    let count = |name: &str| sample(&scrape(&reporter), &format!("mesh_protocol_{name}_total"), &labels);
    assert_eq!((count("connections_opened"), count("connections_closed")), (1, 0));
    assert_eq!((count("received_bytes"), count("sent_bytes")), (6, 7));
    drop((speaking, report.speaks(Named::Redis)));
    assert_eq!((count("connections_opened"), count("connections_closed")), (2, 2));
    let text = scrape(&reporter);
    assert!(!text.contains("mesh_mongo_decoding_error_total{"), "nobody speaks MongoDB's protocol:\n{text}");
}

#[test]
fn commands_are_counted_until_something_cannot_be_read() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let report = reporter.begin(info(Direction::Outbound));
    let speaking = report.speaks(Named::Mongo);
    let bytes = [command("find"), command("find"), command("mine"), command("other")].concat();
    bytes.chunks(11).for_each(|piece| speaking.read(Side::App, piece));
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "mesh_mongo_cmd_total", &["cmd=\"find\""]), 2);
    assert_eq!(sample(&text, "mesh_mongo_cmd_total", &["cmd=\"other\""]), 2, "names of nobody are one");
    assert_eq!(sample(&text, "mesh_mongo_op_total", &["op=\"op_msg\"", "side=\"request\""]), 4);
    assert_eq!(sample(&text, "mesh_mongo_decoding_error_total", &[]), 0);
    speaking.read(Side::Far, b"this is no message of MongoDB");
    speaking.read(Side::Far, &command("find"));
    // The other direction is not counted any more either, nor is the error twice.
    speaking.read(Side::App, &command("find"));
    let text = scrape(&reporter);
    assert_eq!(sample(&text, "mesh_mongo_cmd_total", &["cmd=\"find\""]), 2);
    assert_eq!(sample(&text, "mesh_mongo_decoding_error_total", &[]), 1);
}

#[test]
fn operations_of_dynamodb_are_counted_by_status_and_error() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    let count = |name, code, error| {
        reporter.dynamodb(Perspective::Source, Some(&service("server")), Operation { name, code, error });
    };
    count("GetItem", 200, None);
    count("GetItem", 200, None);
    count("GetItem", 400, Some("ThrottlingException"));
    count("PutItem", 0, None);
    let text = scrape(&reporter);
    let operations = |labels: &[&str]| sample(&text, "mesh_dynamodb_operations_total", labels);
    assert_eq!(operations(&["operation=\"GetItem\"", "response_code=\"200\""]), 2);
    assert_eq!(operations(&["operation=\"GetItem\"", "response_code=\"400\""]), 1);
    assert_eq!(operations(&["operation=\"PutItem\"", "response_code=\"0\""]), 1);
    let errors = ["operation=\"GetItem\"", "error=\"ThrottlingException\"", "reporter=\"source\""];
    assert_eq!(sample(&text, "mesh_dynamodb_errors_total", &errors), 1);
}

#[test]
fn label_sets_have_a_bound() {
    let (reporter, _sink) = reporter(AccessLogFormat::Off);
    for number in 0..MAX_SETS + 50 {
        let mut info = info(Direction::Outbound);
        info.service = Some(service(&format!("s{number}")));
        drop(reporter.protocols.begin(&info, Named::MySql));
        let code = u16::try_from(number % 1_000).unwrap();
        let operation = Operation { name: "Query", code, error: None };
        reporter.dynamodb(Perspective::Source, info.service.as_ref(), operation);
    }
    let text = scrape(&reporter);
    let sets = |name: &str| text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
    assert_eq!(sets("mesh_protocol_connections_opened_total"), MAX_SETS + 1);
    assert_eq!(sets("mesh_dynamodb_operations_total"), MAX_SETS + 1);
    let unknown = ["destination_service=\"unknown\"", "protocol=\"mysql\""];
    assert_eq!(sample(&text, "mesh_protocol_connections_opened_total", &unknown), 50);
}
