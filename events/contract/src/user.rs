//! What the user service says: ids only. Names and addresses never enter the log.

use serde::{Deserialize, Serialize};

use crate::{CustomerId, payload::messages};

/// Somebody registered. First row of the stream `user-<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UserRegistered {
    pub user_id: CustomerId,
    /// `customer`, `operator` or `admin`.
    pub role: String,
}

/// Somebody changed their profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProfileChanged {
    pub user_id: CustomerId,
}

messages! {
    /// `user.events.v1`, stream `user-<id>`.
    pub enum Event on USER_EVENTS {
        UserRegistered = "user.UserRegistered" v 1,
        ProfileChanged = "user.ProfileChanged" v 1,
    }
}
