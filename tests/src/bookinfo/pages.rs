//! What Bookinfo shows: the pages and the one book there is.

use serde_json::{Value, json};

/// The reviewers with what they say.
pub(super) const REVIEWS: [(&str, &str); 2] = [
    (
        "Reviewer1",
        "Mistaken brothers, mistaken masters, one long mistaken day: a delight from the first slap to the last embrace.",
    ),
    (
        "Reviewer2",
        "Great fun, though anyone who has read the later comedies will find these figures a little flat.",
    ),
];

/// Served for every path under `/static/`.
pub(super) const STYLE: &str = "body{font-family:sans-serif;margin:2em auto;max-width:60em;padding:0 1em}
table{border-collapse:collapse}td,th{padding:.2em 1em .2em 0;text-align:left}
.error{color:#a00}.stars.black{color:#000}.stars.red{color:#d00}blockquote{margin:1em 0}
nav{display:flex;justify-content:space-between;border-bottom:1px solid #ccc;padding-bottom:.5em}
";

/// The entry in the list of products.
pub(super) fn product_json() -> Value {
    json!({
        "id": 0,
        "title": "The Comedy of Errors",
        "descriptionHtml": "Two pairs of twins, parted by shipwreck, come to the same town without knowing of each other.",
    })
}

/// The answer of `details`.
pub(super) fn details_json(id: u64) -> Value {
    json!({
        "id": id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    })
}

/// The front page.
pub(super) fn index() -> String {
    page(
        "<h1>Bookinfo</h1>\n<p>A book shop with one book, made of four services: this page asks <b>details</b> and \
         <b>reviews</b>, and reviews may ask <b>ratings</b>.</p>\n<ul>\n\
         <li><a href=\"/productpage?u=normal\">Normal user</a></li>\n\
         <li><a href=\"/productpage?u=test\">Test user</a></li>\n</ul>\n",
    )
}

/// The book with its details and reviews, or with what is shown in their place.
pub(super) fn product(details: &Value, reviews: &Value, user: Option<&str>) -> String {
    let session = match user {
        Some(user) => format!("<span>{} (<a href=\"/logout\">sign out</a>)</span>", escape(user)),
        None => "<form method=\"post\" action=\"/login\"><input name=\"username\" placeholder=\"User name\">\
                 <input name=\"passwd\" type=\"password\" placeholder=\"Password\"><button>Sign in</button></form>"
            .to_owned(),
    };
    let product = product_json();
    page(&format!(
        "<nav><a href=\"/\">Bookinfo</a>{session}</nav>\n<h1>{}</h1>\n<p>{}</p>\n{}{}",
        text(&product["title"]),
        text(&product["descriptionHtml"]),
        details_section(details),
        reviews_section(reviews)
    ))
}

fn details_section(details: &Value) -> String {
    if let Some(error) = details.get("error") {
        return format!("<h2 class=\"error\">Error fetching product details!</h2>\n<p>{}</p>\n", text(error));
    }
    let row = |(label, field): (&str, &str)| {
        format!("<tr><th>{label}</th><td>{}</td></tr>\n", text(details.get(field).unwrap_or(&Value::Null)))
    };
    let rows: String = [
        ("Type", "type"),
        ("Pages", "pages"),
        ("Publisher", "publisher"),
        ("Language", "language"),
        ("ISBN-10", "ISBN-10"),
        ("ISBN-13", "ISBN-13"),
    ]
    .into_iter()
    .map(row)
    .collect();
    format!("<h2>Book Details</h2>\n<table>\n{rows}</table>\n")
}

fn reviews_section(reviews: &Value) -> String {
    if let Some(error) = reviews.get("error") {
        return format!("<h2 class=\"error\">Error fetching product reviews!</h2>\n<p>{}</p>\n", text(error));
    }
    let list = reviews["reviews"].as_array().cloned().unwrap_or_default();
    let quotes: String = list.iter().map(quote).collect();
    format!("<h2>Book Reviews</h2>\n{quotes}<p>Reviews served by: <u>{}</u></p>\n", text(&reviews["podname"]))
}

fn quote(review: &Value) -> String {
    let rating = match review.get("rating") {
        None => String::new(),
        Some(rating) => match rating.get("error") {
            Some(error) => format!("<p class=\"error\">{}</p>", text(error)),
            None => stars(rating["stars"].as_u64().unwrap_or(0), &text(&rating["color"])),
        },
    };
    let (words, reviewer) = (text(&review["text"]), text(&review["reviewer"]));
    format!("<blockquote><p>{words}</p><cite>{reviewer}</cite>{rating}</blockquote>\n")
}

fn stars(count: u64, color: &str) -> String {
    let full = usize::try_from(count.min(5)).unwrap_or(0);
    let (full, empty) = ("★".repeat(full), "☆".repeat(5 - full));
    format!("<p class=\"stars {color}\" title=\"{color} stars\">{full}{empty}</p>")
}

fn page(body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Simple Bookstore App</title>\n\
         <link rel=\"stylesheet\" href=\"/static/style.css\">\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

/// A JSON value as text that is safe inside HTML.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text),
        Value::Null => String::new(),
        other => escape(&other.to_string()),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
