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

/// Somebody may do more or less than before. Who gave or took it is the message's actor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RoleChanged {
    pub user_id: CustomerId,
    /// `customer`, `operator` or `admin`: what they were.
    pub from: String,
    /// What they are from here on.
    pub to: String,
    /// Why, in the words of who did it.
    pub reason: String,
}

messages! {
    /// `user.events.v1`, stream `user-<id>`.
    pub enum Event on USER_EVENTS {
        UserRegistered = "user.UserRegistered" v 1,
        ProfileChanged = "user.ProfileChanged" v 1,
        RoleChanged = "user.RoleChanged" v 1,
    }
}
