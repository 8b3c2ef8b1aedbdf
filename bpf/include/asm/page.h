// Empty on purpose: BCC includes it, nothing here needs it.
