"""What a run tells people: metric files, progress, tables, intervals, the HTML report."""
