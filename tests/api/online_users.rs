//! `GET /onlineusers`: who is connected.

use serde_json::json;

use crate::support::{Deployment, eventually, unique};

#[tokio::test]
async fn a_connection_is_listed_until_it_ends() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut first = deployment.connect(&site).await;
    let second = deployment.connect(&site).await;
    let _elsewhere = deployment.connect(&unique("other")).await;

    let online = deployment.online(&site).await;
    assert_eq!(online.len(), 2);
    assert!(online.is_sorted());
    let answer = deployment.get("/onlineusers", &[("site", &site)]).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.json(),
        json!([{"ConnectionID": online[0]}, {"ConnectionID": online[1]}])
    );

    first.socket.close(None).await.unwrap();
    eventually("one is left", || async {
        deployment.online(&site).await.len() == 1
    })
    .await;
    // The TCP connection just ends, without a close frame.
    drop(second);
    eventually("none is left", || async {
        deployment.online(&site).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_request_without_a_site_is_refused() {
    let deployment = Deployment::start().await;
    for query in ["", "?site=", "?other=1"] {
        let answer = deployment
            .send(deployment.request("GET", &format!("/onlineusers{query}")))
            .await;
        assert_eq!(answer.status, 400);
        assert_eq!(
            answer.json(),
            json!({"message": "Requires query string param 'site'."})
        );
    }
}
