//! `docs/openapi.yaml` has the routes that the server has. `tests/openapi/run`
//! compares the answers.

use std::collections::BTreeSet;

use crate::support::Deployment;

/// The methods and paths of the description, by the lines' indentation.
fn documented() -> BTreeSet<(String, &'static str)> {
    let description = include_str!("../../docs/openapi.yaml");
    let (_, paths) = description.split_once("\npaths:\n").unwrap();
    let (paths, _) = paths.split_once("\ncomponents:\n").unwrap();
    let mut path = "";
    let mut routes = BTreeSet::new();
    for line in paths.lines() {
        let key = line.trim().trim_end_matches(':');
        match line.len() - line.trim_start().len() {
            2 => path = key,
            4 => drop(routes.insert((key.to_uppercase(), path))),
            _ => {}
        }
    }
    routes
}

#[test]
fn every_route_of_the_server_is_described_and_no_other() {
    let served = local::HTTP_ROUTES.map(|(method, path, _)| (method.to_string(), path));
    assert_eq!(documented(), BTreeSet::from(served));
}

#[tokio::test]
async fn every_described_route_is_served() {
    let deployment = Deployment::start().await;
    for (method, path) in documented() {
        // Without what it needs: the route exists, and refuses.
        let answer = deployment.send(deployment.request(&method, path)).await;
        assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
        assert!(!answer.error().is_empty());
    }
}
