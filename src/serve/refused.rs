//! What is wrong with a request, as an answer.

use serde_json::Value;

/// The most likely tokens that are told with each.
pub(super) const MAX_LOGPROBS: usize = 20;

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub status: u16,
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    pub code: Option<&'static str>,
}

impl Refused {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Refused {
        Refused { status, message: message.into(), param: None, code: None }
    }

    pub(super) fn field(param: &str, message: impl std::fmt::Display) -> Refused {
        Refused { param: Some(param.into()), ..Refused::new(400, format!("{param}: {message}")) }
    }

    pub(super) fn code(self, code: &'static str) -> Refused {
        Refused { code: Some(code), ..self }
    }

    /// The body, as OpenAI's API writes errors.
    pub(super) fn body(&self) -> Value {
        let kind = match self.status {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        serde_json::json!({
            "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code }
        })
    }
}

pub(super) type Checked<T> = Result<T, Refused>;

/// Which of the two endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Completion,
    Chat,
}
