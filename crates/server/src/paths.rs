//! Paths as clients put them together from a base and a route: slashes too many are no other route.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use tower_service::Service as _;

/// The same routes for paths with double slashes, or one at the end.
pub(crate) fn tidied(routes: Router) -> Router {
    Router::new().fallback(move |mut request: Request<Body>| {
        let mut routes = routes.clone();
        async move {
            if let Some(uri) = tidy(request.uri()) {
                *request.uri_mut() = uri;
            }
            let Ok(response) = routes.call(request).await;
            response
        }
    })
}

/// `None` if there is nothing to do.
fn tidy(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains("//") && (path == "/" || !path.ends_with('/')) {
        return None;
    }
    let mut text = String::with_capacity(path.len());
    for part in path.split('/').filter(|part| !part.is_empty()) {
        text.push('/');
        text.push_str(part);
    }
    if text.is_empty() {
        text.push('/');
    }
    if let Some(query) = uri.query() {
        text.push('?');
        text.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_too_many_are_left_out() {
        for (given, expected) in [
            ("/", None),
            ("/v1/models", None),
            ("/v1/models/", Some("/v1/models")),
            ("//v1//models///x/?a=b//", Some("/v1/models/x?a=b//")),
            ("//", Some("/")),
        ] {
            let uri = Uri::builder().path_and_query(given).build().unwrap();
            assert_eq!(tidy(&uri).map(|uri| uri.to_string()).as_deref(), expected, "{given}");
        }
    }
}
