//! `docs/api.md` and the API: every endpoint is on the page, every line of the page does what it says, and every field of its
//! answer is named there.

use std::collections::BTreeSet;

use nacl_daemon::service::api::ENDPOINTS;

use crate::*;

const PAGE: &str = include_str!("../../../docs/api.md");
/// The page's interface; the tests' own, which no machine has.
const SHOWN: &str = "eth0";
const HERE: &str = "fake0";

/// The page's sections by their titles, such as `GET /v1/status`.
fn sections() -> Vec<(&'static str, &'static str)> {
    let section = |text: &'static str| text.split_once('\n');
    PAGE.split("\n## ").skip(1).filter_map(section).filter(|(title, _)| title.contains(" /")).collect()
}

/// What a line of curl asks for: method, path with query, body.
fn request(line: &str) -> (Method, String, Option<String>) {
    // Words, with what stands between single quotes as one.
    let mut words: Vec<String> = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    let mut words = words.into_iter();
    assert_eq!(words.next().as_deref(), Some("curl"));
    let (mut method, mut body, mut path) = (Method::GET, None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--unix-socket" => {
                assert_eq!(words.next().as_deref(), Some(nacl_daemon::service::DEFAULT_SOCKET), "{line}");
            }
            "-N" => {}
            "-X" => method = words.next().expect("a method").parse().expect("a method"),
            "--json" => {
                method = Method::POST;
                body = words.next();
            }
            url => path = Some(url.strip_prefix("http://nacld").expect("the host of every line").to_owned()),
        }
    }
    (method, path.expect("an address").replace(SHOWN, HERE), body)
}

/// Every key of an answer.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                found.insert(key.clone());
                keys(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

/// A daemon with something of everything to tell.
async fn busy() -> Daemon {
    let (_, shut) = service::broken::SHUT.split_once('\n').unwrap();
    let shut = shut.replace(HERE, "fake1");
    let daemon =
        Daemon::start(&(GROUPS.replace("nacl = \"web\"", "nacl = \"web\"\nmode = \"stateful\"") + &shut)).await;
    let rule = daemon.fake.slot(HERE, Direction::Inbound, 100);
    daemon.fake.hit(HERE, rule, 1);
    let (key, entry) = flow(443, Stands::Established, 300);
    daemon.fake.remember(HERE, key, Entry { nacl: 1, nacl_slot: rule, ..entry });
    daemon.client.reload(false, None).await.unwrap();
    service::broken::meet(&daemon, "fake1").await;
    daemon
}

#[test]
fn the_page_has_every_endpoint_and_no_other() {
    let there: BTreeSet<_> = sections().into_iter().map(|(title, _)| title.to_owned()).collect();
    let wanted = ENDPOINTS.iter().map(|endpoint| format!("{} {}", endpoint.method, endpoint.path)).collect();
    assert_eq!(there, wanted);
}

#[tokio::test]
async fn every_line_of_the_page_works_and_every_field_is_named() {
    let listed = sections();
    for (title, section) in &listed {
        let lines: Vec<_> = section.lines().filter(|line| line.starts_with("curl ")).collect();
        assert!(!lines.is_empty(), "{title} shows no line");
        for line in lines {
            let (method, path, body) = request(line);
            let plain = path.split('?').next().unwrap().replace(&format!("/{HERE}/"), "/{name}/");
            assert_eq!(*title, format!("{method} {plain}"), "{line}");
            let daemon = busy().await;
            if matches!(&*path, "/v1/confirm" | "/v1/rollback") {
                daemon.client.reload(false, Some(Duration::from_mins(10))).await.unwrap();
            }
            let mut answer = if title.ends_with("/events") {
                let mut stream = Lines::open(&daemon, &path).await;
                let slot = daemon.fake.slot(HERE, Direction::Inbound, 100);
                daemon.fake.emit(HERE, syn(slot, Action::Deny as u8));
                stream.next().await
            } else {
                let body = body.unwrap_or_default().into_bytes();
                let response = daemon.client.send_with(method, &path, body).await.unwrap();
                let status = response.status();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert!(status.is_success(), "{line}: {status} {}", String::from_utf8_lossy(&body));
                if title.ends_with("/metrics") {
                    // Not JSON: `metrics.rs` looks at it.
                    assert!(body.ends_with(b"# EOF\n"), "{line}");
                    continue;
                }
                serde_json::from_slice(&body).unwrap()
            };
            assert_eq!(answer.as_object_mut().unwrap().remove("schema"), Some(1.into()), "{line}");
            let mut named = BTreeSet::new();
            keys(&answer, &mut named);
            // A section may build on what was said before it.
            let head = format!("\n## {title}\n");
            let before = PAGE.find(&head).unwrap() + head.len() + section.len();
            let unknown: Vec<_> = named.iter().filter(|key| !PAGE[..before].contains(&format!("`{key}`"))).collect();
            assert!(unknown.is_empty(), "{title} does not name {unknown:?}: {answer:#}");
        }
    }
}

#[tokio::test]
async fn the_list_is_the_router_s() {
    let daemon = Daemon::start(WEB).await;
    let (code, list) = daemon.json(Method::GET, "/v1").await;
    assert_eq!(code, 200);
    assert_eq!(daemon.json(Method::GET, "/").await, (200, list.clone()));
    let lines = list["endpoints"].as_array().unwrap();
    assert_eq!(lines.len(), ENDPOINTS.len());
    for line in lines {
        let (method, path) = (line["method"].as_str().unwrap(), line["path"].as_str().unwrap());
        assert!(!line["about"].as_str().unwrap().is_empty(), "{path}");
        // Whatever it answers, the path and its method are there. The stream is not waited for.
        let method: Method = method.parse().unwrap();
        let response = daemon.client.send(Method::PUT, &path.replace("{name}", HERE)).await.unwrap();
        assert_eq!(response.status(), 405, "{path}");
        let allowed = response.headers()["allow"].to_str().unwrap().to_owned();
        assert!(allowed.split(',').any(|one| one == method.as_str()), "{path}: {allowed}");
    }
}
