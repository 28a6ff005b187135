//! What can go wrong with contracts and topics.

use std::path::PathBuf;

/// Everything that is wrong with a contract, at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the contract is wrong in {} place(s):\n{}", problems.len(), problems.iter().map(|p| format!("  - {p}")).collect::<Vec<_>>().join("\n"))]
pub struct ContractError {
    pub problems: Vec<String>,
}

/// Events cannot be moved or taken in. Messages name topics and what to do; never an event's values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    #[error("cannot read the contract {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} cannot be used", path.display())]
    Contract {
        path: PathBuf,
        #[source]
        source: ContractError,
    },
    #[cfg(feature = "kafka")]
    #[error("Kafka refused to {action}")]
    Kafka {
        action: String,
        #[source]
        source: rdkafka::error::KafkaError,
    },
    #[cfg(feature = "kafka")]
    #[error(
        "a message of {topic} does not fit into {into}, with its headers: raise max.message.bytes of {into} to that of \
         {topic} and 64 KiB more"
    )]
    TooLarge { topic: String, into: String },
    #[error(
        "another validator has taken over, again and again: two of them have the instance {instance:?}; give each one its \
         own ([events] instance)"
    )]
    Fenced { instance: String },
    #[error(
        "partition {partition} of topic {topic} ends at {end}, and {next} was read before: it was deleted and made anew. Give \
         the new topic another name, since its messages cannot be told from those of before"
    )]
    OtherTopic { topic: String, partition: i32, end: i64, next: i64 },
}

impl EventsError {
    /// Whether trying again later can succeed without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        #[cfg(feature = "kafka")]
        if let Self::Kafka { source, .. } = self {
            use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
            let code = match source {
                KafkaError::AdminOp(code) => Some(*code),
                other => other.rdkafka_error_code(),
            };
            let refused = matches!(
                code,
                Some(
                    Code::TopicAuthorizationFailed
                        | Code::GroupAuthorizationFailed
                        | Code::ClusterAuthorizationFailed
                        | Code::TransactionalIdAuthorizationFailed
                        | Code::SaslAuthenticationFailed
                )
            );
            return !refused
                && !matches!(source, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_));
        }
        false
    }

    #[cfg(feature = "kafka")]
    pub(crate) fn kafka(action: impl Into<String>) -> impl FnOnce(rdkafka::error::KafkaError) -> Self {
        let action = action.into();
        move |source| Self::Kafka { action, source }
    }
}
