"""What is known of each deployment: new, on trial, good, or failed, and what a failed one may not do again."""
