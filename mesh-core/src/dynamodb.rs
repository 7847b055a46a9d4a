//! What requests to `DynamoDB` ask for, and what went wrong with them, as far as it is counted (the low-level API of Amazon's
//! manual). What clients and servers write is text of their choosing: names that are not known are one.

/// The operation that `x-amz-target` names; `None` if it is not about `DynamoDB`.
///
/// A version that is not known has operations of the same names.
pub fn operation(target: &[u8]) -> Option<&'static str> {
    let rest = target.strip_prefix(b"DynamoDB_").or_else(|| target.strip_prefix(b"DynamoDBStreams_"))?;
    let dot = rest.iter().position(|byte| *byte == b'.')?;
    let (version, name) = rest.split_at(dot);
    let is_version = version.len() == VERSION && version.iter().all(u8::is_ascii_digit);
    is_version.then(|| known(&OPERATIONS, name.get(1..).unwrap_or_default()))
}

/// The error that `x-amzn-errortype` names, which may stand between a namespace and an address:
/// `com.amazonaws.dynamodb.v20120810#ThrottlingException:http://…`.
pub fn error(kind: &[u8]) -> &'static str {
    let name = kind.split(|byte| *byte == b':').next().unwrap_or_default();
    known(&ERRORS, name.rsplit(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii())
}

fn known(all: &[&'static str], name: &[u8]) -> &'static str {
    all.iter().copied().find(|known| known.as_bytes() == name).unwrap_or(OTHER)
}

/// What is not known.
const OTHER: &str = "other";
/// Digits of a version, which is a date.
const VERSION: usize = 8;

const OPERATIONS: [&str; 46] = [
    "BatchExecuteStatement",
    "BatchGetItem",
    "BatchWriteItem",
    "CreateBackup",
    "CreateGlobalTable",
    "CreateTable",
    "DeleteBackup",
    "DeleteItem",
    "DeleteTable",
    "DescribeBackup",
    "DescribeContinuousBackups",
    "DescribeContributorInsights",
    "DescribeEndpoints",
    "DescribeExport",
    "DescribeGlobalTable",
    "DescribeImport",
    "DescribeLimits",
    "DescribeStream",
    "DescribeTable",
    "DescribeTimeToLive",
    "ExecuteStatement",
    "ExecuteTransaction",
    "ExportTableToPointInTime",
    "GetItem",
    "GetRecords",
    "GetShardIterator",
    "ImportTable",
    "ListBackups",
    "ListExports",
    "ListGlobalTables",
    "ListImports",
    "ListStreams",
    "ListTables",
    "ListTagsOfResource",
    "PutItem",
    "Query",
    "RestoreTableFromBackup",
    "RestoreTableToPointInTime",
    "Scan",
    "TagResource",
    "TransactGetItems",
    "TransactWriteItems",
    "UntagResource",
    "UpdateItem",
    "UpdateTable",
    "UpdateTimeToLive",
];

const ERRORS: [&str; 22] = [
    "AccessDeniedException",
    "ConditionalCheckFailedException",
    "DuplicateItemException",
    "ExpiredIteratorException",
    "IdempotentParameterMismatchException",
    "IncompleteSignatureException",
    "InternalServerError",
    "ItemCollectionSizeLimitExceededException",
    "LimitExceededException",
    "MissingAuthenticationTokenException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ResourceInUseException",
    "ResourceNotFoundException",
    "SerializationException",
    "ServiceUnavailable",
    "ThrottlingException",
    "TransactionCanceledException",
    "TransactionConflictException",
    "TransactionInProgressException",
    "UnrecognizedClientException",
    "ValidationException",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_those_of_the_manual() {
        for (target, expected) in [
            ("DynamoDB_20120810.GetItem", Some("GetItem")),
            ("DynamoDB_20111205.Scan", Some("Scan")),
            ("DynamoDB_20120810.getitem", Some("other")),
            ("DynamoDB_20120810.", Some("other")),
            ("DynamoDB_20120810.Get.Item", Some("other")),
            ("DynamoDB_20120810", None),
            ("DynamoDB_2012.GetItem", None),
            ("DynamoDBStreams_20120810.GetRecords", Some("GetRecords")),
            ("DynamoDBOther_20120810.GetItem", None),
            ("Kinesis_20131202.PutRecord", None),
            ("", None),
        ] {
            assert_eq!(operation(target.as_bytes()), expected, "{target}");
        }
    }

    #[test]
    fn errors_are_known_in_every_form() {
        for (kind, expected) in [
            ("ThrottlingException", "ThrottlingException"),
            ("ThrottlingException:http://internal.amazon.com/coral/", "ThrottlingException"),
            ("com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", "ResourceNotFoundException"),
            ("x#ValidationException:http://a#b", "ValidationException"),
            ("MyOwnException", "other"),
            ("\u{1}\u{2}", "other"),
            ("", "other"),
        ] {
            assert_eq!(error(kind.as_bytes()), expected, "{kind}");
        }
    }
}
