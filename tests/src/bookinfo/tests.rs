use super::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

fn peers(details: &str, reviews: &str, ratings: &str) -> Peers {
    Peers { details: details.to_owned(), reviews: reviews.to_owned(), ratings: ratings.to_owned() }
}

fn start(app: App) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || http::serve(&listener, |request| app.answer(request)));
    addr.to_string()
}

/// A port where nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn app(role: Role, stars: Stars, peers: Peers) -> App {
    App::new(role, stars, peers, "pod-1".to_owned())
}

fn shop(stars: Stars) -> (App, [String; 3]) {
    let none = peers("", "", "");
    let ratings = start(app(Role::Ratings, stars, none.clone()));
    let details = start(app(Role::Details, stars, none));
    let reviews = start(app(Role::Reviews, stars, peers("", "", &ratings)));
    let page = app(Role::ProductPage, stars, peers(&details, &reviews, &ratings));
    (page, [details, reviews, ratings])
}

fn get(app: &App, path: &str) -> Response {
    app.answer(&Request::get(path))
}

#[test]
fn the_page_shows_all_three() {
    for (stars, shown, hidden) in [
        (Stars::None, "Reviewer1", "★"),
        (Stars::Black, "class=\"stars black\"", "stars red"),
        (Stars::Red, "class=\"stars red\"", "stars black"),
    ] {
        let (page, _) = shop(stars);
        let response = get(&page, "/productpage");
        let text = response.text();
        assert!(response.status == 200 && text.contains("<title>Simple Bookstore App</title>"), "{text}");
        assert!(text.contains("William") || text.contains("PublisherA"), "{text}");
        assert!(text.contains(shown) && !text.contains(hidden), "{stars:?}: {text}");
        assert!(text.contains("Reviews served by: <u>pod-1</u>"), "{text}");
    }
}

#[test]
fn what_is_missing_is_said() {
    let (page, [details, reviews, _]) = shop(Stars::Black);
    let without = |details: &str, reviews: &str| {
        app(Role::ProductPage, Stars::None, peers(details, reviews, &nobody()))
    };
    let text = get(&without(&nobody(), &reviews), "/productpage").text();
    assert!(text.contains("Sorry, product details are currently unavailable for this book."), "{text}");
    let text = get(&without(&details, &nobody()), "/productpage").text();
    assert!(text.contains("Sorry, product reviews are currently unavailable for this book."), "{text}");
    let alone = start(app(Role::Reviews, Stars::Black, peers("", "", &nobody())));
    let text = get(&without(&details, &alone), "/productpage").text();
    assert!(text.contains("Ratings service is currently unavailable"), "{text}");
    assert_eq!(get(&without(&nobody(), &nobody()), "/api/v1/products/0").status, 500);
    assert_eq!(get(&page, "/api/v1/products/0").status, 200);
}

#[test]
fn reviews_are_given_two_tries_of_three_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr: SocketAddr = silent.local_addr().unwrap();
    let page = app(Role::ProductPage, Stars::None, peers(&nobody(), &addr.to_string(), &nobody()));
    let started = Instant::now();
    assert!(get(&page, "/productpage").text().contains("Sorry, product reviews"));
    assert!((6..8).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[test]
fn every_path_of_the_api_answers() {
    let (page, _) = shop(Stars::Black);
    for (path, part) in [
        ("/", "Normal user"),
        ("/health", "healthy"),
        ("/metrics", "bookinfo_pages_total 0"),
        ("/static/style.css", "font-family"),
        ("/static/x", "font-family"),
        ("/api/v1/products", "\"id\":0"),
        ("/api/v1/products/0", "PublisherA"),
        ("/api/v1/products/0/reviews", "\"color\":\"black\""),
        ("/api/v1/products/0/ratings", "\"Reviewer1\":5"),
    ] {
        let response = get(&page, path);
        assert!(response.status == 200 && response.text().contains(part), "{path}: {}", response.text());
    }
    for path in ["/productpagex", "/api/v1/products/x", "/api/v2", "/api/v1/products/0/other"] {
        assert_eq!(get(&page, path).status, 404, "{path}");
    }
}

#[test]
fn the_small_services_check_their_ids() {
    let none = || peers("", "", "");
    let (details, ratings) =
        (app(Role::Details, Stars::None, none()), app(Role::Ratings, Stars::None, none()));
    assert_eq!((get(&details, "/details/x").status, get(&ratings, "/ratings/x").status), (400, 400));
    assert_eq!((get(&details, "/health").status, get(&ratings, "/health").status), (200, 200));
    let post =
        Request { method: "POST".into(), body: b"{\"Reviewer1\":1}".to_vec(), ..Request::get("/ratings/7") };
    assert_eq!(ratings.answer(&post).status, 200);
    assert!(get(&ratings, "/ratings/7").text().contains("{\"Reviewer1\":1}"));
    assert!(get(&ratings, "/ratings/0").text().contains("\"Reviewer1\":5"));
}

#[test]
fn the_user_travels_from_login_to_ratings() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ratings = listener.local_addr().unwrap().to_string();
    let log = Arc::clone(&seen);
    thread::spawn(move || {
        http::serve(&listener, |request| {
            log.lock().unwrap().push(request.headers.clone());
            Response::new(500, "text/plain", "")
        });
    });
    let reviews = start(app(Role::Reviews, Stars::Black, peers("", "", &ratings)));
    let page = app(Role::ProductPage, Stars::None, peers(&nobody(), &reviews, &ratings));
    let login = Request {
        method: "POST".into(),
        body: b"username=jason&passwd=x".to_vec(),
        ..Request::get("/login")
    };
    let response = page.answer(&login);
    let cookie = response.headers.first("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert_eq!((response.status, response.headers.first("location")), (302, Some("/productpage")));
    let mut request = Request::get("/productpage");
    request.headers.push("Cookie", cookie);
    request.headers.push("X-Request-Id", "r1");
    request.headers.push("X-Other", "stays");
    let text = page.answer(&request).text();
    assert!(text.contains("jason") && text.contains("Ratings service is currently unavailable"), "{text}");
    let headers = seen.lock().unwrap().first().cloned().unwrap();
    assert_eq!(headers.first("end-user"), Some("jason"));
    assert_eq!((headers.first("x-request-id"), headers.first("x-other")), (Some("r1"), None));
}

#[test]
fn peers_follow_the_environment() {
    let peers = Peers::from_environment(|name| match name {
        "SERVICES_DOMAIN" => Some("shop.svc".to_owned()),
        "RATINGS_HOSTNAME" => Some("stars".to_owned()),
        "RATINGS_SERVICE_PORT" => Some("80".to_owned()),
        "REVIEWS_SERVICE_PORT" => Some("tcp://10.96.0.1:1".to_owned()),
        _ => None,
    });
    let all = [peers.details, peers.reviews, peers.ratings];
    assert_eq!(all, ["details.shop.svc:9080", "reviews.shop.svc:9080", "stars.shop.svc:80"]);
}
