// Writes the line `what detail` to the log of calls.
void dry_run_log(const char *what, const char *detail);
