"""What only the electives teach."""
