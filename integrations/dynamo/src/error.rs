//! Errors as Dynamo sorts them: whose fault it is, and whether another worker may be asked.

use dsde_engine::Refused;
use dsde_server::{FormFault, Loss, Rejected};
use dynamo_backend_common::{BackendError, DynamoError, ErrorType};

/// Something is wrong with the request; no worker could serve it.
pub(crate) fn invalid(message: impl ToString) -> DynamoError {
    error(ErrorType::Backend(BackendError::InvalidArgument), message)
}

/// The worker is not there yet or no more; others may be.
pub(crate) fn leaving() -> DynamoError {
    error(ErrorType::Backend(BackendError::EngineShutdown), "the worker is shutting down")
}

/// The worker itself is broken.
pub(crate) fn failed(message: impl ToString) -> DynamoError {
    error(ErrorType::Backend(BackendError::Unknown), message)
}

/// Why no answer can have the form that is asked for.
pub(crate) fn formless(fault: &FormFault) -> DynamoError {
    match fault {
        FormFault::Unfit(_) | FormFault::Slow { .. } | FormFault::Dear { .. } | FormFault::Deep => {
            invalid(fault)
        }
        FormFault::Failed | FormFault::Untried(_) => failed(fault),
    }
}

/// Why a request was not taken.
pub(crate) fn rejected(rejected: &Rejected) -> DynamoError {
    match rejected {
        Rejected::Refused(Refused::QueueFull { .. } | Refused::Policies(_)) | Rejected::Busy => {
            error(ErrorType::WorkerOverloaded, rejected)
        }
        Rejected::Refused(refused) => invalid(refused),
        Rejected::Stopped => leaving(),
    }
}

/// Why an answer ended before its end.
pub(crate) fn lost(loss: Loss) -> DynamoError {
    match loss {
        Loss::Failed => failed("the engine failed on this request"),
        Loss::Form => invalid(
            "the form of the answer could not be followed to its end: it has too many states, takes too long to follow, or asks for what is not supported",
        ),
        Loss::Deadline => {
            error(ErrorType::DeadlineExceeded, "the answer took longer than --request-timeout allows")
        }
        Loss::Shutdown => leaving(),
    }
}

fn error(error_type: ErrorType, message: impl ToString) -> DynamoError {
    let message = message.to_string();
    DynamoError::builder().error_type(error_type).public_message(message.clone()).message(message).build()
}
