"""What this machine has and lacks for the toolkit. Nothing here needs torch when it is imported: it may be broken."""
