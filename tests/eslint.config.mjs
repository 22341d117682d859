// What eslint holds the dashboard to; run from the top, see `make check`.
import js from '@eslint/js';
import globals from 'globals';

// Names that strangers chose are on the page: they become text nodes, never markup or code.
const markup = ['innerHTML', 'outerHTML', 'srcdoc', 'insertAdjacentHTML', 'setHTMLUnsafe', 'parseHTMLUnsafe',
  'createContextualFragment', 'parseFromString', 'write', 'writeln', 'cssText'];

export default [
  js.configs.recommended,
  {
    files: ['bifrost_lite/web/*.js'],
    languageOptions: { ecmaVersion: 2022, sourceType: 'module', globals: globals.browser },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      'no-restricted-properties': ['error',
        ...markup.map((property) => ({ property, message: 'Strangers named it: text nodes only.' })),
        { object: 'window', property: 'open', message: 'The page opens nothing.' }],
      'no-eval': 'error', 'no-implied-eval': 'error', 'no-new-func': 'error', 'no-script-url': 'error',
      'no-restricted-globals': ['error', 'localStorage', 'alert', 'confirm', 'prompt', 'event'],
      'no-alert': 'error', 'no-console': 'error', 'no-var': 'error', 'prefer-const': 'error', eqeqeq: ['error', 'always', { null: 'ignore' }],
      'no-shadow': 'error', 'no-use-before-define': ['error', { functions: false, variables: false }],
      'no-implicit-globals': 'error', 'require-await': 'off',
    },
  },
];
