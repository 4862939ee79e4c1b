"""What of a result may be shown: the answer taken over, its lists narrowed, its values looked at."""
