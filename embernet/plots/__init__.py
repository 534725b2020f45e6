"""Pictures of trainings, models and answers. Needs the extra [plot]."""
