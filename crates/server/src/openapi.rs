//! `/openapi.json`: what may be asked, for programs that read OpenAPI.

use axum::http::header;
use axum::response::{IntoResponse, Response};

const DESCRIPTION: &str = include_str!("../openapi.json");

/// The description.
pub(crate) async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::body::names_of;
    use crate::openai::chat::ChatBody;
    use crate::openai::completions::CompletionBody;
    use crate::openai::fields::Fields;
    use crate::openai::fields::form::FormFields;
    use crate::openai::responses;
    use crate::openai::tokens::{DetokenizeBody, TokenizeBody};
    use crate::page::ROUTES;

    fn sorted(mut names: Vec<String>) -> Vec<String> {
        names.sort();
        names
    }

    #[track_caller]
    fn check(schema: &str, names: Vec<&str>) {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let properties = description["components"]["schemas"][schema]["properties"].as_object().unwrap();
        let described = sorted(properties.keys().cloned().collect());
        assert_eq!(described, sorted(names.into_iter().map(str::to_owned).collect()), "{schema}");
    }

    #[test]
    fn every_field_that_is_read_is_described_and_no_other() {
        check("Shared", [names_of::<Fields>(), names_of::<FormFields>()].concat());
        check("Chat", names_of::<ChatBody>().to_vec());
        check("Completion", names_of::<CompletionBody>().to_vec());
        check("Response", responses::names());
        check("Tokenize", names_of::<TokenizeBody>().to_vec());
        check("Detokenize", names_of::<DetokenizeBody>().to_vec());
    }

    #[test]
    fn every_route_is_described_and_no_other() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let mut described = Vec::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            let path = path.replace("{name}", "NAME").replace("{file}", "FILE");
            described.extend(methods.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
        }
        let listed = ROUTES.map(|(method, path, _)| format!("{} {path}", method.to_lowercase()));
        assert_eq!(sorted(described), sorted(listed.to_vec()));
    }
}
