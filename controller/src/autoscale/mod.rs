//! Feeds the scaler and carries out what it decides.
