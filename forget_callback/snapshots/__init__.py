"""What one model answered to one probe, and other tools' logs read as such."""
