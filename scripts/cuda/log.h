// Writes a line, `what detail`, into the log of calls.
void dry_run_log(const char *what, const char *detail);
